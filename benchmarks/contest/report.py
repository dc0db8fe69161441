"""Results as JSON, tables and a chart; pages in English and Chinese from the same figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contest.models import MODELS, OURS, REFERENCE
from benchmarks.contest.worker import CALIBRATED
from benchmarks.limits import (
    EQUAL,
    MIXED,
    MODERNBERT,
    QWEN3,
    RESIDENT,
    SECOND_START,
    SHARE_OF_PEAK,
    UNCALIBRATED,
    Limit,
    Verdict,
)
from benchmarks.pages import between

CELLS = ("32", "128", "512", "mixed")
"""Workloads of results that do not name theirs."""

TITLES = {
    "v2-m3-shape": {
        "en": "The shape of bge-reranker-v2-m3 (568 M weights, random)",
        "zh": "bge-reranker-v2-m3 的形状（5.68 亿权重，随机）",
    },
    "crossrank-mini": {"en": "crossrank-mini (75 M weights)", "zh": "crossrank-mini（7500 万权重）"},
    "modernbert-base-shape": {
        "en": "The shape of gte-reranker-modernbert-base (ModernBERT-base, 150 M weights, random)",
        "zh": "gte-reranker-modernbert-base 的形状（ModernBERT-base，1.5 亿权重，随机）",
    },
    "gte-multilingual-base-shape": {
        "en": "The shape of gte-multilingual-reranker-base (306 M weights, random)",
        "zh": "gte-multilingual-reranker-base 的形状（3.06 亿权重，随机）",
    },
    "qwen3-reranker-0.6b-shape": {
        "en": "The shape of Qwen3-Reranker-0.6B (596 M weights, random)",
        "zh": "Qwen3-Reranker-0.6B 的形状（5.96 亿权重，随机）",
    },
}

WORDS = {
    "prompt": {
        "en": "Lengths are the document's. A query of 12 tokens and the template come on top: each engine "
        "gets the whole prompt, and 16 documents for each query.",
        "zh": "长度指文档。此外还有 12 个 token 的查询和模板：每个引擎得到完整的提示词，每个查询 16 个文档。",
    },
    "engine": {"en": "engine", "zh": "引擎"},
    "tokens": {"en": "{} tokens", "zh": "{} 个 token"},
    "mixed": {"en": "mixed", "zh": "混合长度"},
    "latency": {"en": "one pair, ms", "zh": "单对延迟，毫秒"},
    "start": {"en": "start, s", "zh": "启动，秒"},
    "memory": {"en": "peak memory, MB", "zh": "内存峰值，MB"},
    "difference": {"en": "logit difference, mean / largest", "zh": "logit 差，平均 / 最大"},
    "tau": {"en": "Kendall's tau", "zh": "Kendall tau"},
    "ratio": {"en": "CrossRank int8 is faster by a factor of", "zh": "CrossRank int8 的速度是多少倍"},
    "against": {"en": "against {}", "zh": "相比 {}"},
    "fastest": {"en": "against the fastest other engine", "zh": "相比最快的其他引擎"},
    "uncalibrated": {
        "en": "against the fastest that needs no calibration data",
        "zh": "相比不需要校准数据的最快引擎",
    },
    "failed": {"en": "cannot run: {}", "zh": "无法运行：{}"},
    "disturbed": {
        "en": "Other processes took up to {} % of the machine while these were measured: {}.",
        "zh": "测量下列引擎时，其他进程占用了机器的至多 {} %：{}。",
    },
    "what": {"en": "what", "zh": "项目"},
    "figure": {"en": "figure", "zh": "数值"},
    "machine": {"en": "machine", "zh": "机器"},
    "cores": {"en": "{cpu} ({instructions}), {threads} cores", "zh": "{cpu}（{instructions}），{threads} 核"},
    "chart": {"en": "Pairs per second of every engine", "zh": "每个引擎每秒处理的文本对数量"},
    "date": {"en": "measured on", "zh": "测量日期"},
    "versions": {"en": "versions", "zh": "版本"},
    "peak": {"en": "int8 peak of a bare kernel, all cores", "zh": "裸内核的 int8 峰值，全部核"},
    "share": {
        "en": "share of it at 128 tokens: the whole model's operations / those that a logit needs",
        "zh": "128 个 token 时达到的比例：按整个模型的运算 / 按一个 logit 所需的运算",
    },
    "busy_rate": {
        "en": "128 tokens with a busy process on every core, pairs/s (share of idle)",
        "zh": "每个核上另有一个繁忙进程时，128 个 token，对/秒（占空闲时的比例）",
    },
    "busy_latency": {
        "en": "one pair of 32 tokens, ms: idle / with a busy process on every core",
        "zh": "单对 32 个 token，毫秒：空闲 / 每个核上另有一个繁忙进程",
    },
    "second": {
        "en": "second start of a script to its first score, s",
        "zh": "脚本第二次启动到第一个得分，秒",
    },
    "first": {
        "en": "first start, from the fp32 checkpoint, without torch, s",
        "zh": "首次启动，从 fp32 检查点，没有 torch，秒",
    },
    "resident": {
        "en": "resident memory of a script that scores the mixed lengths, now / peak, MB",
        "zh": "给混合长度打分的脚本的常驻内存，当前 / 峰值，MB",
    },
}

Results = dict[str, Any]
"""Of one model on one machine, as ``peers.py`` keeps them."""
Machines = list[list[Results]]
"""Of each machine, the models' results."""

QUIET = 0.03
"""What other processes may take of the machine."""


def cells(results: Results) -> list[str]:
    """Names of the workloads."""
    return list(results.get("cells", CELLS))


def rate(results: Results, side: str, cell: str) -> float | None:
    found = results["sides"].get(side, {}).get("pairs_per_second", {}).get(cell)
    return None if found is None else float(found)


def fastest(results: Results, cell: str, calibrated: bool) -> tuple[str, float] | None:
    """The fastest other engine; ``calibrated``: those that need calibration data count too."""
    rates = [
        (value, side)
        for side in results["sides"]
        if not side.startswith("CrossRank") and (calibrated or side not in CALIBRATED)
        if (value := rate(results, side, cell)) is not None
    ]
    return (max(rates)[1], max(rates)[0]) if rates else None


def ratio(results: Results, cell: str, against: str) -> tuple[float, str] | None:
    """How many times as fast CrossRank int8 is, and as whom."""
    ours = rate(results, OURS, cell)
    if against == REFERENCE:
        reference = rate(results, REFERENCE, cell)
        other = (REFERENCE, reference) if reference is not None else None
    else:
        other = fastest(results, cell, calibrated=against == "fastest")
    return None if ours is None or other is None else (ours / other[1], other[0])


def promises(model: str, cell: str) -> list[tuple[str, Limit]]:
    """What is promised of a model's workload, and against whom."""
    if model == "v2-m3-shape":
        return [("fastest", MIXED if cell == "mixed" else EQUAL), ("uncalibrated", UNCALIBRATED)]
    if model == "modernbert-base-shape":
        return [("fastest", MODERNBERT)]
    if model == "qwen3-reranker-0.6b-shape" and cell in QWEN3:
        return [("fastest", QWEN3[cell])]
    return []


def verdicts(results: Results) -> list[Verdict]:
    """The promises that these results say something of; a model that nothing is promised for has none."""
    machine = results["machine"]
    row = machine.get("row")
    found = []
    for cell in cells(results):
        for against, promised in promises(results["model"], cell):
            compared = ratio(results, cell, against)
            if compared is not None:
                named = replace(promised, what=f"{promised.what} ({cell})")
                found.append(named.check(round(compared[0], 2), row))
    if results["model"] == "v2-m3-shape":
        for key, limit in (
            ("share_of_peak", SHARE_OF_PEAK),
            ("resident_mb", RESIDENT),
            ("second_start_seconds", SECOND_START),
        ):
            if key in machine:
                found.append(limit.check(machine[key], row))
    return found


def complete(results: Results, folder: Path) -> None:
    """Sides that were not measured are as this machine's kept results have them, so that there are ratios."""
    kept = folder / machine_slug(results) / f"{results['model']}.json"
    if kept.is_file():
        sides = json.loads(kept.read_text(encoding="utf-8"))["sides"]
        results["sides"] = sides | results["sides"]
    else:
        print(f"{results['model']}: no figures of other engines are kept for this machine")


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_title(cell: str, language: str) -> str:
    return WORDS["mixed"][language] if cell == "mixed" else WORDS["tokens"][language].format(cell)


def speeds(results: Results, language: str) -> str:
    """Every side's figures, or its error."""
    header = [WORDS["engine"][language], *(cell_title(cell, language) for cell in cells(results))]
    header += [WORDS[name][language] for name in ("latency", "start", "memory", "difference", "tau")]
    rows = []
    for side, found in results["sides"].items():
        name = f"**{side}**" if side == OURS else side
        name += " ¹" if side in CALIBRATED else ""
        if "error" in found:
            error = found["error"].replace("|", "\\|")
            rows.append([name, WORDS["failed"][language].format(error), *[""] * (len(header) - 2)])
            continue
        row = [name, *(number(rate(results, side, cell)) for cell in cells(results))]
        row += [number(found["latency_ms"]), number(found["start_seconds"]), f"{found['peak_mb']:,.0f}"]
        row.append(f"{found.get('mean_difference', '-')} / {found.get('largest_difference', '-')}")
        row.append(f"{found['tau']:.3f}" if "tau" in found else "-")
        rows.append(row)
    return table(header, rows)


def ratios(results: Results, language: str) -> str:
    header = [WORDS["ratio"][language], *(cell_title(cell, language) for cell in cells(results))]
    rows = []
    for against in ("fastest", "uncalibrated", REFERENCE):
        title = WORDS.get(against, WORDS["against"])[language].format(against)
        found = [ratio(results, cell, against) for cell in cells(results)]
        rows.append([title, *("-" if r is None else f"{r[0]:.2f} ({r[1]})" for r in found)])
    return table(header, rows)


def disturbed(results: Results, language: str) -> str:
    """Which sides were measured on a machine that was not quiet; "": none."""
    shares = {side: found.get("others", 0.0) for side, found in results["sides"].items()}
    loud = {side: share for side, share in shares.items() if share > QUIET}
    if not loud:
        return ""
    return WORDS["disturbed"][language].format(f"{100 * max(loud.values()):.0f}", ", ".join(loud))


def alone(results: Results, language: str) -> str:
    """CrossRank's figures that no peer was asked for."""
    m = results["machine"]
    rows = [("peak", f"{m['int8_peak_tops']:.2f} TOPS")]
    if "share_of_peak" in m:
        rows.append(("share", f"{100 * m['share_of_peak']:.0f} % / {100 * m['share_of_peak_needed']:.0f} %"))
    rows += [
        (
            "busy_rate",
            f"{number(m['busy_pairs_per_second'])} "
            f"({100 * m['busy_pairs_per_second'] / m['idle_pairs_per_second']:.0f} %)",
        ),
        ("busy_latency", f"{number(m['idle_latency_ms'])} / {number(m['busy_latency_ms'])}"),
        ("second", number(m["second_start_seconds"])),
        ("first", number(m["first_start_seconds"])),
        ("resident", f"{m['resident_mb']:.0f} / {m['peak_mb']:.0f}"),
    ]
    header = [WORDS["what"][language], WORDS["figure"][language]]
    return table(header, [[WORDS[name][language], value] for name, value in rows])


def cores(results: Results, language: str) -> str:
    """The processor, its instructions for matrices, and how many cores were used."""
    m = results["machine"]
    return WORDS["cores"][language].format(**m | {"instructions": ", ".join(m["instructions"])})


def about(results: Results, language: str) -> str:
    rows = [("machine", cores(results, language)), ("date", results["machine"]["date"])]
    rows += [("versions", versions) for versions in results["packages"].values()]
    header = [WORDS["what"][language], WORDS["figure"][language]]
    return table(header, [[WORDS[name][language], value] for name, value in rows])


def image(results: Results, language: str, folder: str = "") -> str:
    """The chart of a machine, for a page from which ``folder`` leads to it."""
    return f"![{WORDS['chart'][language]}]({folder}{chart_name(results)})"


def chart_name(results: Results) -> str:
    return f"performance-{machine_slug(results)}.svg"


def machine_slug(results: Results) -> str:
    """A slug of the processor and CrossRank's kernels, as a virtual machine hides the model."""
    name = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b|@.*", "", results["machine"]["cpu"].lower())
    return slug(f"{name} {results['machine']['kernels']}")


def slug(name: str) -> str:
    """A name for files."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def page(machines: Machines, language: str) -> str:
    parts = []
    for all_results in machines:
        parts.append(f"## {all_results[0]['machine']['cpu']}, {all_results[0]['machine']['kernels']}")
        parts += [about(all_results[0], language), image(all_results[0], language)]
        for results in all_results:
            parts.append(f"### {TITLES[results['model']][language]}")
            if MODELS[results["model"]].decoder:
                parts.append(WORDS["prompt"][language])
            parts += [speeds(results, language), ratios(results, language)]
            if noise := disturbed(results, language):
                parts.append(noise)
            parts.append(alone(results, language))
    return "\n\n".join(parts)


def claim(machines: Machines, language: str) -> str:
    """The README's sentence and table of each machine: how many times as fast, as whom; and a chart."""
    sentences = {
        "en": "With the shape of bge-reranker-v2-m3, CrossRank in int8 scores {}, {} and {} pairs of 32, 128 "
        "and 512 tokens a second, and {} of mixed lengths, on {}.",
        "zh": "对于 bge-reranker-v2-m3 的形状，CrossRank int8 每秒处理 32、128、512 个 token 的文本对 "
        "{}、{}、{} 对，混合长度 {} 对；机器：{}。",
    }
    parts = []
    for results, *_ in machines:
        rates = [number(rate(results, OURS, cell)) for cell in cells(results)]
        parts.append(sentences[language].format(*rates, cores(results, language)))
        parts.append(ratios(results, language))
    return "\n\n".join([*parts, image(machines[0][0], language, "docs/")])


def console(results: Results) -> str:
    return f"\n{TITLES[results['model']]['en']}\n\n{speeds(results, 'en')}\n\n{ratios(results, 'en')}\n"


def chart(results: Results, path: Path) -> None:
    """Bars of every side that runs, one panel for each workload."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    sides = [side for side, found in results["sides"].items() if "error" not in found]
    sides.sort(key=lambda side: rate(results, side, "mixed") or 0)
    # A fixed salt and no date: the same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "crossrank", "font.size": 9, "svg.fonttype": "path"}):
        figure, axes = pyplot.subplots(
            1, len(cells(results)), figsize=(11, 0.32 * len(sides) + 1.1), sharey=True
        )
        for axis, cell in zip(axes, cells(results), strict=True):
            values = [rate(results, side, cell) or 0 for side in sides]
            colours = ["#d9480f" if side.startswith("CrossRank") else "#8aa0b4" for side in sides]
            names = [side + (" ¹" if side in CALIBRATED else "") for side in sides]
            bars = axis.barh(names, values, color=colours)
            axis.bar_label(bars, [number(value) for value in values], padding=2, fontsize=8)
            axis.set_title(cell_title(cell, "en"))
            axis.set_xlim(0, 1.25 * max(values))
            axis.set_xticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        m = results["machine"]
        title = f"pairs per second: {TITLES[results['model']]['en']}\n{m['cpu']}, {m['threads']} cores"
        figure.suptitle(title, fontsize=9)
        figure.supxlabel("¹ needs calibration data", fontsize=8)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def read(folder: Path) -> Machines:
    """The results of every machine that were kept, each machine's with v2-m3-shape first."""
    machines = []
    for path in sorted(folder.glob("*/v2-m3-shape.json")):
        paths = [path.with_name(f"{model}.json") for model in TITLES]
        machines.append([json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()])
    return machines


def write(root: Path, all_results: list[Results]) -> None:
    """results/MACHINE/MODEL.json of this machine, and the pages from all that lie there."""
    folder = root / "benchmarks" / "results"
    for results in all_results:
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        path = folder / machine_slug(results) / f"{results['model']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    machines = read(folder)
    if not machines:
        raise SystemExit("the pages begin with v2-m3-shape, which has not been measured yet")
    for known, *_ in machines:
        chart(known, root / "docs" / chart_name(known))
    for language, suffix in (("en", ""), ("zh", ".zh-CN")):
        between(root / "docs" / f"performance{suffix}.md", "measured", page(machines, language))
        between(root / f"README{suffix}.md", "speed", claim(machines, language))
