"""Load BAAI/bge-reranker-v2-m3, or the model named on the command line, and score one pair.

python examples/test.py
python examples/test.py crossrank-mini
"""

import sys

from crossrank import CrossRankError, Reranker


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "BAAI/bge-reranker-v2-m3"
    query, document = "中国的首都是哪里？", "北京是中国的首都，也是全国的政治和文化中心。"
    try:
        score = Reranker(model, progress=True).score([(query, document)])[0]
    except CrossRankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"问题: {query}")
    print(f"文档: {document}")
    print(f"相关性得分: {score:.4f}")


if __name__ == "__main__":
    main()
