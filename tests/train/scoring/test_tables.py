"""The paper's tables: published numbers against the paper's text, and the layout against its own numbers."""

import json
import re
from pathlib import Path

import pytest
from lock_holder import held_elsewhere
from results_files import results_file, write_results

from polyvid.dataset_scripts.locking import LockedError
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.scoring.tables import find_results, published_tables, table_to_markdown, tables

PAPER = Path(__file__).parents[3].parent / "shared" / "paper" / "paper.md"
TABLES = (1, 2, 3, 4, 5, 6, 7, 9, 10, 12)


def plain(text: str) -> str:
    """Without markup, footnote marks and spaces, which differ by how the text was extracted."""
    return re.sub(r"\s+", "", re.sub(r"<sup>[^<]*</sup>|<[^>]*>", "", text))


def paper_table(number: int) -> list[list[str]]:
    """The tab-separated lines above the caption "Table N:"."""
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    end = next(index for index, line in enumerate(lines) if line.startswith(f"Table {number}:"))
    while "\t" not in lines[end - 1]:
        end -= 1
    start = end
    while "\t" in lines[start - 1]:
        start -= 1
    return [[plain(cell) for cell in line.split("\t")] for line in lines[start:end]]


def number(cell: str) -> float | None:
    return None if cell in ("", "-", "—") else float(cell)


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's text is not available")
@pytest.mark.parametrize("table_number", TABLES)
def test_every_published_cell_is_the_papers(table_number):
    table = published_tables()[f"table_{table_number}"]
    width = len(table.labels) + len(table.columns)
    printed = [row[:width] for row in paper_table(table_number)[-len(table.rows) :]]
    assert [row[: len(table.labels)] for row in printed] == [
        [plain(label) for label in row.labels] for row in table.rows
    ]
    assert [[number(cell) for cell in row[len(table.labels) :]] for row in printed] == [
        row.scores for row in table.rows
    ]
    # Nothing but headings above.
    headings = paper_table(table_number)[: -len(table.rows)]
    assert not any(re.fullmatch(r"\d+\.\d", cell) for row in headings for cell in row)


@pytest.fixture
def papers_own_results(tmp_path):
    """Results that say what the paper says: each run's scores collected from all tables it stands in."""
    runs = {}
    for table in published_tables().values():
        for row in table.rows:
            for column, score in zip(table.columns, row.scores, strict=True):
                language, metric = column.split()
                if row.run is not None and language != "mean":
                    scores = runs.setdefault((row.run, table.benchmark, table.protocol), {})
                    assert scores.setdefault(language, {}).setdefault(metric, score) == score, "tables contradict"
    write_results(tmp_path, *(results_file(*key, scores) for key, scores in runs.items()))
    return tmp_path


def cells_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()[2:]]


@pytest.mark.parametrize("table_number", TABLES)
def test_the_papers_own_numbers_reproduce_every_cell(papers_own_results, table_number):
    table = published_tables()[f"table_{table_number}"]
    results = find_results(papers_own_results)
    printed = cells_of(table_to_markdown(table, results))
    for row, cells in zip(table.rows, printed, strict=True):
        assert cells[: len(table.labels)] == row.labels
        triples = [cells[i : i + 3] for i in range(len(table.labels), len(cells), 3)]
        for column, score, (published, ours, difference) in zip(table.columns, row.scores, triples, strict=True):
            assert published == ("" if score is None else f"{score:.1f}")
            if row.run is None:
                assert (ours, difference) == ("", "")
            elif column == "mean R@1":  # the paper averages before rounding: up to 0.1 away from its own cells' mean
                assert abs(float(ours) - score) < 0.11
                assert float(difference) == pytest.approx(float(ours) - score, abs=1e-9)
            else:
                assert (ours, difference) == (published, "+0.0")


def test_seeds_are_averaged_and_the_difference_is_that_of_the_cells(tmp_path):
    scores = [{code: {"R@1": value} for code in LANGUAGES} for value in (20.0, 23.0)]
    write_results(
        tmp_path, *(results_file("vtt_en-scratch", "msrvtt", "1k-A", s, seed) for seed, s in enumerate(scores))
    )
    table = published_tables()["table_9"]
    row = cells_of(table_to_markdown(table, find_results(tmp_path)))[7]
    assert row == ["12", "9", "21.0", "21.5 ± 2.1 (2)", "+0.5", "16.3", "21.5 ± 2.1 (2)", "+5.2"]


def test_nothing_run_leaves_the_columns_empty(tmp_path, capsys):
    tables(tmp_path, [12])
    printed = capsys.readouterr().out
    assert "## Table 12: Zero-shot generalization" in printed
    assert "| Ours-Full | 24.0 |  |  | 50.5 |  |  | 62.1 |  |  |" in printed
    assert "Table 4" not in printed


def test_another_protocol_does_not_fill_a_row_but_is_listed(tmp_path):
    scores = {"en": {"R@1": 30.0, "R@5": 60.0, "R@10": 70.0}}
    write_results(
        tmp_path,
        results_file("vtt_en-scratch", "msrvtt", "9k", scores),
        results_file("vtt_en-scratch", "msrvtt", "1k-A", scores, missing=20),
    )
    output = tmp_path / "tables.md"
    tables(tmp_path, output=output)
    text = output.read_text()
    assert "| XLM-R | R+S | 21.0 | 30.0 | +9.0 | 50.6 | 60.0 | +9.4 | 63.6 | 70.0 | +6.4 |" in text
    assert "| vtt_en-scratch | msrvtt | 9k | en | 30.0 | 60.0 | 70.0 |" in text
    assert "| vtt_en-scratch | msrvtt | 1k-A |" not in text  # Table 4 has that cell
    assert "- vtt_en-scratch on msrvtt: 980 of 1,000 videos have features" in text


def test_cells_the_paper_leaves_empty_are_shown(tmp_path, capsys):
    """Out-of-domain and not English: Table 12 has English only."""
    scores = {code: {"R@1": value, "R@5": 40.0, "R@10": 50.0} for code, value in (("en", 24.5), ("zh", 15.25))}
    write_results(tmp_path, results_file("vtt_en", "msvd", "standard", scores))
    tables(tmp_path, [12])
    printed = capsys.readouterr().out
    assert "| Ours-Full | 24.0 | 24.5 | +0.5 |" in printed
    assert "| vtt_en | msvd | standard | zh | 15.2 | 40.0 | 50.0 |" in printed
    assert "| vtt_en | msvd | standard | en |" not in printed


def test_a_file_that_another_command_writes_is_left_alone(tmp_path):
    write_results(tmp_path, results_file("vtt_en", "msrvtt", "1k-A", {"en": {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0}}))
    output = tmp_path / "tables.md"
    output.write_text("earlier")
    with held_elsewhere(output) as first, pytest.raises(LockedError, match=rf"process {first.pid} on "):
        tables(tmp_path, output=output)
    assert output.read_text() == "earlier"
    tables(tmp_path, output=output)
    assert output.read_text().startswith("# The paper's tables")


def test_text_ceilings_have_a_table_of_their_own(tmp_path, capsys):
    content = results_file("vtt_en", "msvd", "standard", {"en": {"R@1": 20.0, "R@5": 40.0, "R@10": 50.0}})
    write_results(tmp_path, content | {"text_ceilings": {"zh": {"R@1": 61.25}, "sw": {"R@1": 20.0}}})
    tables(tmp_path, [12])
    printed = capsys.readouterr().out.split("## Text ceilings")[1]
    assert "| run | benchmark | protocol | zh | sw |" in printed
    assert "| vtt_en | msvd | standard | 61.2 | 20.0 |" in printed


def test_what_cannot_be_tabulated_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        tables(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="No table 8 here: choose from 1 2 3 4 5 6 7 9 10 12"):
        tables(tmp_path, [8])
    write_results(tmp_path, *[results_file("vtt_en", "msrvtt", "1k-A", {})] * 2)
    with pytest.raises(ValueError, match="run0/results.json and .*run1/results.json are both run 'vtt_en', seed 0"):
        tables(tmp_path)
    (tmp_path / "run0" / "results.json").write_text("{")
    with pytest.raises(ValueError, match="run0/results.json is not JSON"):
        tables(tmp_path)


def test_other_programs_results_are_passed_over(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"scores": {"none": {}}}))
    assert not find_results(tmp_path)
