"""A server on this machine that plays the hub, for the real huggingface_hub client.

Files of a git repo come from the hub itself; large ones (weights) by a redirect to a second
server, the CDN, which refuses a token, as the true one does. The same repos are there for
ModelScope's client, as branch "master".
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin")


@dataclass(frozen=True)
class Request:
    """One request as it came; ``server`` is "hub" or "cdn"."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Repo:
    """The files of each commit, and the commits of branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


class Hub:
    """The hub and its faults; use it with ``with``.

    Attributes:
        url: what HF_ENDPOINT must be.
        requests: every request so far.
        gated: names of repos that only ``token`` may read.
        private: names of repos that are not there for others.
        token: the one that is accepted; others are refused with 401.
        cut: file name -> bytes after which the CDN closes each connection; the last number repeats.
        stall: file name -> bytes after which the CDN says nothing more, until ``resume`` is set.
        stalled: set as soon as it does.
        down: every answer is status 503.
        damage: file names whose bytes the CDN changes.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.token = "hf_good"
        self.cut: dict[str, list[int]] = {}
        self.stall: dict[str, int] = {}
        self.stalled = threading.Event()
        self.resume = threading.Event()
        self.down = False
        self.damage: set[str] = set()
        self._hub, self._cdn = _Server(_HubHandler, self), _Server(_CdnHandler, self)
        self.url, self.cdn_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in (self._hub, self._cdn))

    def __enter__(self) -> Hub:
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes] | Path, *, branch: str = "main") -> str:
        """Commit files, or a folder's, to a branch of a repo; returns the commit's hash."""
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self.repos.setdefault(name, Repo())
        commit = hashlib.sha1(f"{name} {len(repo.commits)}".encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs[branch] = commit
        return commit

    def count(self, method: str, ending: str = "", server: str = "") -> int:
        """How many requests there were of a kind, to paths with this end."""
        return sum(
            r.method == method and r.path.endswith(ending) and r.server.startswith(server)
            for r in self.requests
        )

    def blob(self, digest: str) -> tuple[str, bytes]:
        """The name and content of a large file."""
        for repo in self.repos.values():
            for files in repo.commits.values():
                for file, content in files.items():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return file, content
        raise KeyError(digest)


class _Server(ThreadingHTTPServer):
    def __init__(self, handler: type[BaseHTTPRequestHandler], hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    kind: str

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        path = unquote(urlsplit(self.path).path)
        self.server.hub.requests.append(Request(self.kind, self.command, path, headers))
        if self.server.hub.down:
            self.reply(503)
        else:
            self.answer(path)

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.reply(status, b'{"error": ""}', X_Error_Code=code, X_Error_Message=message)


class _HubHandler(_Handler):
    kind = "hub"

    def answer(self, path: str) -> None:
        if path.startswith("/api/v1/models/"):
            return self.answer_modelscope(path.removeprefix("/api/v1/models/"))
        hub = self.server.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/api/models/"):
            name, _, ref = path.removeprefix("/api/models/").partition("/revision/")
            file = ""
        else:
            name, _, rest = path[1:].partition("/resolve/")
            ref, _, file = rest.partition("/")
        repo = hub.repos.get(name)
        if token and token != hub.token:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None and not token:  # the hub does not tell who is not known what there is
            return self.refuse(401, "", "Invalid username or password.")
        if repo is None or (name in hub.private and not token):
            return self.refuse(404, "RepoNotFound", "Repository not found")
        commit = repo.refs.get(ref or "main", ref)
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {ref}")
        files = repo.commits[commit]
        if not file:
            siblings = [{"rfilename": name} for name in files]
            info = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
            return self.reply(200, json.dumps(info).encode(), Content_Type="application/json")
        if name in hub.gated and not token:
            return self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        if file not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = files[file]
        if file.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            return self.reply(
                302,
                Location=f"{hub.cdn_url}/{digest}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{digest}"',
                X_Linked_Size=str(len(content)),
            )
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return self.reply(200, content, ETag=f'"{blob}"', X_Repo_Commit=commit)

    def answer_modelscope(self, path: str) -> None:
        name, separator, rest = path.partition("/repo")
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        repo = self.server.hub.repos.get(name)
        ref = query.get("Revision", "master")
        commit = "" if repo is None else repo.refs.get("main" if ref == "master" else ref, "")
        if repo is None or not commit:
            return self.reply(404, json.dumps({"Code": 10010205001, "Message": "not found"}).encode())
        files = repo.commits[commit]
        if rest == "/files":
            listed = [
                {
                    "Path": file,
                    "Name": Path(file).name,
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                }
                for file, content in files.items()
            ]
            body = {"Code": 200, "Success": True, "Data": {"Files": listed}}
            return self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
        if not separator:
            body = {"Code": 200, "Success": True, "Data": {"Name": name}}
            return self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
        content = files.get(query.get("FilePath", ""))
        return self.reply(404) if content is None else self.reply(200, content)


class _CdnHandler(_Handler):
    kind = "cdn"

    def answer(self, path: str) -> None:
        hub = self.server.hub
        if "Authorization" in self.headers:
            return self.refuse(400, "", "Only one auth mechanism allowed")
        file, content = hub.blob(path[1:])
        if file in hub.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = 0
        if wanted := self.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if file in hub.stall and hub.stall[file] >= first:
            self.wfile.write(content[first : hub.stall[file]])
            hub.stalled.set()
            hub.resume.wait(60)
            return None
        # Leaving the method closes the connection, whatever Content-Length has promised.
        cuts = hub.cut.get(file, [len(content)])
        self.wfile.write(content[first : first + (cuts.pop(0) if len(cuts) > 1 else cuts[0])])
        return None
