"""README's figures are those of the benchmarks. (`.ci/run` runs the benchmarks.)"""
import re


def test_figures_of_the_readme(repository):
    """Each table of README's "Figures" stands in bench/results, line by line."""
    readme = (repository / "README.md").read_text()
    figures = readme.partition("## Figures")[2].partition("\n## ")[0]
    measured = "".join(path.read_text() for path in (repository / "bench/results").glob("*.md"))
    rows = re.findall(r"^\| .* \|$", figures, re.MULTILINE)
    assert len(rows) >= 8
    for row in rows:
        assert row in measured, row
    machine = re.search(r"CPU .*, fastlog [\d.]+", measured)[0]
    assert machine in figures.replace("\n", " ")
