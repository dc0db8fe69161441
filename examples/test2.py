"""Rerank documents that fool keyword search, and show the scores as bars.

python examples/test2.py crossrank-mini
python examples/test2.py crossrank-mini --plot scores.png
"""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path
from typing import NoReturn

from crossrank import CrossRankError, Ranking, Reranker

QUERY = "苹果有什么营养价值？"
DOCUMENTS = [
    {"text": "苹果公司发布了新一代手机。", "kind": "trap"},
    {"text": "苹果的价格在今年秋天上涨了。", "kind": "trap"},
    {"text": "这种水果富含膳食纤维和多种维生素，有助于消化。", "kind": "answer"},
    {"text": "营养师这个职业有什么前途？", "kind": "trap"},
    {"text": "火车将在上午九点准时出发。", "kind": "other"},
]
MARKS = {"answer": "✓ 答案", "trap": "✗ 关键词陷阱", "other": ""}


def show(ranking: Ranking) -> None:
    """Print the ranking with a bar for each score."""
    print(f"问题: {ranking.query}\n")
    for hit in ranking:
        bar = "█" * round(hit.score * 30)
        print(f"{hit.rank}. {hit.score:.4f} {bar:<30} {hit.text}  {MARKS[hit.fields['kind']]}")


def plot(ranking: Ranking, path: Path) -> None:
    """Draw the scores as a bar chart."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.font_manager import fontManager

    # The default font of matplotlib has no Chinese characters; the package mplfonts brings one that has.
    font = resources.files("mplfonts") / "fonts" / "NotoSansCJKsc-Regular.otf"
    fontManager.addfont(str(font))
    mpl.rcParams["font.family"] = "Noto Sans CJK SC"
    colours = {"answer": "#2a9d8f", "trap": "#e76f51", "other": "#adb5bd"}
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(ranking) + 1.2), layout="constrained")
    hits = list(reversed(ranking))
    axes.barh(
        [hit.text for hit in hits],
        [hit.score for hit in hits],
        color=[colours[h.fields["kind"]] for h in hits],
    )
    for row, hit in enumerate(hits):
        axes.text(hit.score + 0.01, row, f"{hit.score:.4f}", va="center")
    axes.set_xlim(0, 1.12)
    axes.set_title(ranking.query)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="BAAI/bge-reranker-v2-m3")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also save a chart of the scores as PNG")
    arguments = parser.parse_args()
    try:
        ranking = Reranker(arguments.model, progress=True).rank(QUERY, DOCUMENTS)
    except CrossRankError as error:
        fail(str(error))
    show(ranking)
    if arguments.plot:
        try:
            plot(ranking, arguments.plot)
        except ImportError as error:
            fail(f"{error.name} is missing: pip install matplotlib mplfonts")
        except (OSError, ValueError) as error:
            fail(f"cannot write {arguments.plot}: {error}")
        print(f"\n已保存: {arguments.plot}")


if __name__ == "__main__":
    main()
