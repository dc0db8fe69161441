from pathlib import Path

import pytest

from crossrank import InputError
from crossrank.data.trec import kind_of, read_documents, read_qrels, read_run, read_topics

CRANFIELD = Path(__file__).parent / "cranfield"


def write(folder: Path, text: str) -> Path:
    path = folder / "file"
    path.write_text(text)
    return path


def test_a_run_is_ordered_by_score_and_ties_keep_the_files_order(tmp_path: Path) -> None:
    path = write(tmp_path, "1 Q0 a 1 0.5 t\n1 Q0 b 2 2e0 t\n1\tQ0\tc\t3\t.5\tt\n2 Q0 a 1 -inf t\n")
    run = read_run(path)
    assert {query: list(found) for query, found in run.items()} == {"1": ["b", "a", "c"], "2": ["a"]}
    assert run["1"]["b"] == 2.0
    assert kind_of(path) == "run"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 Q0 a 1 0.5\n", "line 1: 5 columns; a line of a run is"),
        ("1 Q0 a 1 0.5 t\n1 Q0 a 2 0.4 t\n", "line 2: document a appears twice for query 1"),
        ("1 Q0 a 1 nan t\n", "line 1: the score is 'nan'"),
        ("1 Q0 a 1 high t\n", "line 1: the score is 'high'"),
        ("1 Q0 a 1 2 t\n2 Q0 a 1 2 t\n1 Q0 b 2 1 t\n", "line 3: query 1 appeared before"),
        ("\n", "no lines of a run"),
    ],
)
def test_malformed_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_run(write(tmp_path, text))
    assert message in str(caught.value)


def test_judgments_of_trec_and_of_beir(tmp_path: Path) -> None:
    trec = write(tmp_path, "1 0 a 2\n1 0 b 0\n2 0 a -1\n")
    expected = {"1": {"a": 2, "b": 0}, "2": {"a": -1}}
    assert read_qrels(trec) == expected
    assert kind_of(trec) == "qrels"
    assert read_qrels(write(tmp_path, "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\ta\t-1\n")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 a 1\n1 0 b\n", "line 2: 3 columns; a judgment is"),
        ("1 0 a yes\n", "line 1: the label is 'yes'"),
        ("1 0 a 1\n1 0 a 0\n", "line 2: document a of query 1 has two labels"),
        ("a b\n", "line 1: 2 columns"),
        ("", "no judgments"),
    ],
)
def test_malformed_judgments(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_qrels(write(tmp_path, text))
    assert message in str(caught.value)


def test_topics_closed_and_not(tmp_path: Path) -> None:
    assert read_topics(CRANFIELD / "cran.qry.xml")["4"] == (
        "what problems of heat conduction in composite slabs have been solved so far ."
    )
    classic = """<top>
<num> Number: 301
<title> International Organized Crime & p < 0.5

<desc> Description:
Identify organizations.
</top>
<top><num>302<title>Topic: second &amp; last</top>
"""
    path = write(tmp_path, classic)
    assert read_topics(path) == {
        "301": "International Organized Crime & p < 0.5",
        "302": "second & last",
    }
    assert kind_of(path) == "topics"
    assert read_topics(write(tmp_path, "1\tfirst query\n2\tsecond\n")) == {"1": "first query", "2": "second"}


def test_topics_in_xml_with_their_number_as_an_attribute(tmp_path: Path) -> None:
    text = """<?xml version="1.0"?>
<topics task="COVIDSearch">
  <topic number="1">
    <query>coronavirus origin</query>
    <question>what is the origin of COVID-19</question>
  </topic>
  <topic number='2'><query>masks &amp; visors</query></topic>
</topics>
"""
    path = write(tmp_path, text)
    assert read_topics(path) == {"1": "coronavirus origin", "2": "masks & visors"}
    assert kind_of(path) == "topics"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<top>\n<num>1\n</top>", "line 1: the topic has no <title>"),
        ("\n<top>\n<title>x\n</top>", "line 2: the topic has no <num>"),
        ("<top><num>1<title>x</top>\n<top><num>1<title>y</top>", "line 2: the number 1 appeared before"),
        ("<top><num>1<title>x\n<top><num>2<title>y</top>", "line 2: <top> inside the one of"),
        ("<top><num>1<title>x", "line 1: <top> without </top>"),
        ("1\tx\n2\n", "line 2: a line is a number, a tab and a query"),
        ('<topic number="1">\n<question>x</question>\n</topic>', "line 1: the topic has no <query>"),
        ("<topic id='1'><query>x</query></topic>", "line 1: the topic has no number"),
        ("", "no topics"),
    ],
)
def test_malformed_topics(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_topics(write(tmp_path, text))
    assert message in str(caught.value)


def test_documents(tmp_path: Path) -> None:
    found = {number: text for _, number, text in read_documents(CRANFIELD / "cran.all.1400.xml")}
    assert len(found) == 85
    # The text begins with the title, which is not said twice.
    assert found["12"].count("some structural and aerelastic considerations of high speed flight") == 1
    assert found["471"] == ""  # the collection has two empty documents
    text = """<DOC>
<DOCNO> FT-1 </DOCNO>
<DATE>1991</DATE><HEADLINE>Head & line</HEADLINE>
<TEXT>
One <P>two</P> three.
</TEXT>
<TEXT>Four.</TEXT>
</DOC>
<doc><docno>2</docno><body>Only a body</body></doc>
"""
    assert [(n, t) for _, n, t in read_documents(write(tmp_path, text))] == [
        ("FT-1", "Head & line One two three. Four."),
        ("2", "Only a body"),
    ]


def test_documents_of_ms_marcos_collection(tmp_path: Path) -> None:
    path = tmp_path / "collection.tsv"
    path.write_text("0\tTea is a drink.\n1\tIt has\ttabs.\n2\t\n")
    assert kind_of(path) == "documents"
    assert [(n, t) for _, n, t in read_documents(path)] == [
        ("0", "Tea is a drink."),
        ("1", "It has\ttabs."),
        ("2", ""),
    ]
    path.write_text("0\ta\nb\n")
    with pytest.raises(InputError, match=r"collection\.tsv, line 2: a line is a number, a tab"):
        list(read_documents(path))


def test_malformed_documents(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: the document has no <docno>"):
        list(read_documents(write(tmp_path, "\n<doc><text>x</text></doc>")))
    with pytest.raises(InputError, match="line 1: <doc> without </doc>"):
        list(read_documents(write(tmp_path, "<doc><docno>1</docno>")))


def test_tabs_divide_where_ids_hold_spaces(tmp_path: Path) -> None:
    text = "query-id\tcorpus-id\tscore\nq1\tuser guide.pdf\t1.0\n"
    assert read_qrels(write(tmp_path, text)) == {"q1": {"user guide.pdf": 1}}
    path = write(tmp_path, "q1\t0\tuser guide.pdf\t1\n")
    assert read_qrels(path) == {"q1": {"user guide.pdf": 1}}
    assert kind_of(path) == "qrels"
    assert read_qrels(write(tmp_path, "q1 0\td1 1\n")) == {"q1": {"d1": 1}}
    assert read_run(write(tmp_path, "q1\tQ0\tuser guide.pdf\t1\t2.5\tt\n")) == {"q1": {"user guide.pdf": 2.5}}


@pytest.mark.parametrize("label", ["0.5", "1e0", "nan", "inf", "1.0.0", "."])
def test_a_label_is_a_whole_number(tmp_path: Path, label: str) -> None:
    with pytest.raises(InputError, match="must be a whole number"):
        read_qrels(write(tmp_path, f"1 0 a 1\n1 0 b {label}\n"))
