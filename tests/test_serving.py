"""What docs/serving.md says is so, and what examples/serving holds fits together."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import promql_parser
import pytest
import typer
import yaml

from crossrank.cli import app
from crossrank.server.http.dialects import Dialects
from crossrank.server.http.faults import Fault
from tests.server.process import Server, serving

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "serving.md", ROOT / "docs" / "serving.zh-CN.md"]
EXAMPLES = ROOT / "examples" / "serving"
# Numbers of another processor differ in their last digits.
SCORE = re.compile(r"0\.\d{6,}")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = shlex.split(blocks(PAGES[0], "sh")[0].splitlines()[1])[2:]
    with serving(
        tmp_path_factory.mktemp("serving"), *options, "--threads", "1", "--score-cache", "1MB"
    ) as running:
        running.wait_until_ready()
        yield running


# --- the pages ---


@pytest.mark.parametrize("language", ["sh", "json", "python", "yaml", "nginx"])
def test_both_languages_have_the_same_code(language: str) -> None:
    assert blocks(PAGES[0], language) == blocks(PAGES[1], language) != []


def test_both_languages_have_the_same_rows() -> None:
    names = [re.findall(r"^\| (`.*?`) \|", page.read_text("utf-8"), re.MULTILINE) for page in PAGES]
    assert names[0] == [name.replace("、", ", ") for name in names[1]]
    assert len(names[0]) > 40


CURLS = [block for block in blocks(PAGES[0], "sh") if block.startswith("curl")]


@pytest.mark.parametrize("index", range(len(CURLS)))
def test_a_command_is_answered_as_is_shown(index: int, server: Server) -> None:
    asked = CURLS[index].replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(["bash", "-euc", asked], capture_output=True, text=True, check=True)
    shown, real = blocks(PAGES[0], "json")[index], done.stdout
    assert plain(json.loads(shown)) == plain(json.loads(real))
    for left, right in zip(SCORE.findall(shown), SCORE.findall(real), strict=True):
        assert float(left) == pytest.approx(float(right), abs=0.05)


def plain(answer: Any) -> Any:
    """An answer without what is another each time."""
    if isinstance(answer, dict):
        return {key: None if key in ("id", "created") else plain(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    return "a number" if isinstance(answer, float) else answer


def test_the_client_prints_what_it_should(server: Server) -> None:
    code = blocks(PAGES[0], "python")[0].replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Paris is the seat of government.\n"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_has_its_row(page: Path) -> None:
    rows = {
        cells[0]: cells[1:3]
        for cells in (
            [cell.strip().strip("`") for cell in line.strip("| \n").split("|")]
            for line in page.read_text("utf-8").splitlines()
            if line.startswith("| `--")
        )
    }
    serve: Any = typer.main.get_group(app).commands["serve"]
    command = serve.load()
    options = {option.opts[0]: option for option in command.params if option.opts[0] != "--help"}
    assert set(rows) == set(options)
    for name, option in options.items():
        variable = option.envvar or f"CROSSRANK_{option.name.upper()}"
        default: Any = option.default
        if isinstance(default, (list, tuple)):
            default = default[0] if default else None
        assert rows[name] == [variable, "" if default in (None, False) else str(default)], name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_statuses_are_those_that_are_told(page: Path) -> None:
    every = [each.errors for _, kinds in Dialects("cohere").paths.values() for each in kinds]
    text = page.read_text("utf-8")
    for kind, status in (("too_large", 413), ("overloaded", 429), ("deadline", 504), ("slow", 408)):
        assert {each.status(Fault(kind, "")) for each in every} == {status}  # type: ignore[arg-type]
        assert str(status) in text
    assert {each.status(Fault("limit", "")) for each in every} == {400, 422}
    assert {each.status(Fault("engine", "")) for each in every} == {503, 424}


# --- metrics, the dashboard, the alerts ---


@pytest.fixture(scope="module")
def families(server: Server) -> set[str]:
    """Names of a server that has answered something; without what only tells when a counter began."""
    assert server.request("POST", "/rerank", {"query": "a", "texts": ["b"]})[0] == 200
    text = server.request("GET", "/metrics")[1]
    names = set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE))
    return {name for name in names if not name.endswith("_created")}


def test_every_metric_is_explained_and_no_other(families: set[str]) -> None:
    told = {
        name.split("{")[0]
        for page in PAGES[:1]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith(("| `te_", "| `crossrank_"))
        for name in re.findall(r"`([a-z_]+(?:\{[a-z,]+\})?)`", line.split("|")[1])
    }
    assert told == {name for name in families if not name.startswith(("process_", "python_"))}


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name) if not name.endswith("request_count") else name


def check_query(query: str, families: set[str]) -> None:
    """It is PromQL, and asks for nothing that is not there."""
    tree = promql_parser.parse(query).prettify()
    names = re.findall(r"\b(?:te|crossrank|process)_[a-z_]+\b", tree)
    assert names or "up{" in tree, query
    assert {family(name) for name in names} <= families


def test_the_dashboard_asks_for_what_is_there(families: set[str]) -> None:
    board = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 30
    for query in queries:
        check_query(query.replace("$__rate_interval", "1m"), families)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(board["panels"])))
    assert used == variables
    for variable in board["templating"]["list"][1:]:
        name = re.match(r"label_values\(([a-z_]+), [a-z]+\)", variable["definition"])
        assert name is not None
        assert family(name[1]) in families
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_shows_every_metric_of_the_servers_own(families: set[str]) -> None:
    text = (EXAMPLES / "grafana" / "dashboard.json").read_text("utf-8")
    own = {name for name in families if name.startswith(("te_", "crossrank_"))}
    assert {name for name in own if name not in text} <= {"crossrank_cache_evicted_total"}


def test_the_alerts_ask_for_what_is_there(families: set[str]) -> None:
    rules = read("alerts.yml")["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) == 7
    for rule in rules:
        check_query(rule["expr"], families)
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


# --- the files around a server ---


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text("utf-8"))


def variables() -> set[str]:
    return set(re.findall(r"`(CROSSRANK_[A-Z_]+)`", PAGES[0].read_text("utf-8")))


def test_the_compose_file() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(EXAMPLES / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    services = read("compose.yaml")["services"]
    assert set(services) == {"crossrank", "prometheus", "grafana"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (EXAMPLES / source).is_file() or source in read("compose.yaml")["volumes"], source
        assert re.search(r":v?\d", service["image"]) or name == "crossrank"  # another's is pinned
    assert set(services["crossrank"]["environment"]) <= variables()
    build = services["crossrank"]["build"]
    assert (EXAMPLES / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_containers_have_no_rights_that_they_do_not_need() -> None:
    for name, service in read("compose.yaml")["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
    user = re.search(r"^USER (\d+):(\d+)$", (EXAMPLES / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert user is not None
    pod = yaml.safe_load(blocks(PAGES[0], "yaml")[0])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user[1])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert set(mounts.values()) == {"/models", "/tmp"}


def test_the_pod_is_of_kubernetes_schema() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crossrank"}}
    pod["spec"] = yaml.safe_load(blocks(PAGES[0], "yaml")[0])
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_grafana_has_no_password_to_guess() -> None:
    environment = read("compose.yaml")["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert not any("PASSWORD" in name for name in environment)


def test_prometheus_and_grafana_find_each_other_and_the_server() -> None:
    services = read("compose.yaml")["services"]
    config = read("prometheus.yml")
    target = config["scrape_configs"][0]["static_configs"][0]["targets"][0]
    host, port = target.split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    mounted = {volume.split(":")[1] for each in services.values() for volume in each["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= mounted
    assert config["scrape_configs"][0]["job_name"] == "crossrank"  # what the alerts ask for
    source = read("grafana/datasource.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    board = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text("utf-8"))
    assert board["templating"]["list"][0]["current"]["value"] == source["uid"]
    folder = read("grafana/dashboards.yml")["providers"][0]["options"]["path"]
    assert f"{folder}/dashboard.json" in mounted


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (EXAMPLES / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    copied = [
        name
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    kept = (EXAMPLES / "Dockerfile.dockerignore").read_text("utf-8").split()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept
    # What a build needs is what the package says it needs.
    needs = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in re.findall(r"(?:readme|license-files) = (.*)", needs):
        assert set(re.findall(r'"([^"]+)"', name)) <= set(copied)
    own = {name for line in lines if line.startswith("ENV") for name in re.findall(r"CROSSRANK_\w+", line)}
    assert own - {"CROSSRANK_CACHE"} <= variables()
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["serve"]
    assert any(line.startswith("USER ") for line in lines)


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    text = (EXAMPLES / "crossrank.service").read_text("utf-8")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == ["serve"]
    assert set(re.findall(r"CROSSRANK_[A-Z_]+", text)) - {"CROSSRANK_CACHE"} <= variables()
    assert "-HUP" in service["ExecReload"]
    if shutil.which("systemd-analyze"):  # its own judgement, where it is
        here = str(Path(sys.executable).parent)
        path = tmp_path / "crossrank.service"
        path.write_text(text.replace("/opt/crossrank/bin", here), encoding="utf-8")
        done = subprocess.run(
            ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_probes_ask_paths_that_answer(server: Server) -> None:
    pod = yaml.safe_load(blocks(PAGES[0], "yaml")[0])
    container = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.request("GET", container[probe]["httpGet"]["path"])[0] == 200
    assert pod["terminationGracePeriodSeconds"] > 30 + 5
