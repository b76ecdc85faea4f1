"""The README, the docs and the examples say what runs."""

import ast
import configparser
import doctest
import functools
import importlib.util
import inspect
import re
import runpy
import shutil
from pathlib import Path

import jinja2  # which torch needs
import pytest

import skinterflow
import skinterflow.interflow
import skinterflow.metrics

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/quick_start.rst",
        "docs/user_guide.rst",
        "docs/columns.rst",
        "docs/larger_than_memory.rst",
        "docs/regression.rst",
        "docs/displays.rst",
        "docs/saving.rst",
        "docs/one_field.rst",
        "docs/images.rst",
        "docs/authors_code.rst",
        "docs/mathematics.rst",
    ],
)
def test_code_blocks_run(name):
    result = doctest.testfile(str(ROOT / name), module_relative=False, optionflags=FLAGS)
    assert result.failed == 0
    assert result.attempted > 0 or name == "docs/mathematics.rst"


PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.rst"))
    if not {"_build", "generated", "auto_examples"} & set(path.parts)
]


def test_pages_show_public_names_only():
    """The page for contributors is the exception."""
    assert len(PAGES) > 20
    for page in PAGES:
        if page.name != "contributing.rst":
            assert not re.findall(r"skinterflow\._\w+", page.read_text(encoding="utf-8")), page


def test_the_sections_of_the_site():
    """In this order, with every page of ``docs/`` in one of them."""
    contents = re.findall(
        r"^    ([\w/]+|\w+ <\w+>)$",
        (ROOT / "docs/index.rst").read_text(encoding="utf-8").split(":hidden:")[1],
        re.M,
    )
    assert contents == [
        "Start <quick_start>",
        "understand",
        "use",
        "further",
        "evidence",
        "auto_examples/index",
        "api",
        "development",
    ]
    found = {"index", "quick_start"}
    for section in contents[1:]:
        if section != "auto_examples/index":  # which is generated
            page = (ROOT / f"docs/{section}.rst").read_text(encoding="utf-8")
            found |= {section, *re.findall(r"^    (\w+)$", page.split(".. toctree::")[1], re.M)}
    assert found - {"changelog"} == {page.stem for page in PAGES if page.parent.name == "docs"}


def test_constraints_cover_the_commands():
    """Both commands install with the constraints, so that a plain torch does not pull in
    gigabytes."""
    commands = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    installs = [
        line for command in commands for line in command.splitlines() if "pip install" in line
    ]
    assert len(installs) >= 2
    assert all("-c constraints.txt" in line for line in installs)


def named(text):
    """Object that a name in the table of the papers points to, or None.

    A name may be dotted, and may have a parameter: ``Class.method(parameter=)``.
    """
    name, _, parameter = text.rstrip("=)").partition("(")
    first, *rest = name.split(".")
    found = getattr(skinterflow, first, None) or getattr(skinterflow.interflow, first, None)
    for part in rest:
        found = getattr(found, part, None)
    if found is None or not parameter:
        return found
    return inspect.signature(found).parameters.get(parameter)


def test_the_table_of_the_papers_points_to_what_is_there():
    """Each row ends with names of the package, with scripts, or says that there are none."""
    text = (ROOT / "docs/mathematics.rst").read_text(encoding="utf-8")
    table = text.split(".. papers begin")[1].split(".. papers end")[0]
    rows = [re.split(r"\n      - ", row) for row in table.split("    * - ")[1:]]
    assert len(rows) > 50
    for number, _, where in rows:
        names = re.findall(r"``(.+?)``", where)
        assert names or re.search("proofs|where|not estimated", where), number
        for name in names:
            there = (ROOT / name).is_file() if "/" in name else named(name) is not None
            assert there, f"{number}: {name}"


EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_pages_of_the_gallery(path):
    """The build of the pages runs them whole; an example that closes its figure or has no title
    would have no picture, or no page."""
    source = path.read_text()
    title, line, blank = ast.get_docstring(ast.parse(source)).splitlines()[:3]
    assert (line, blank) == ("=" * len(title), "")
    assert "plt.close" not in source


def test_the_order_of_the_gallery_names_examples():
    assert set(runpy.run_path(str(ROOT / "docs/gallery.py"))["FIRST"]) <= {
        path.name for path in EXAMPLES
    }


def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["metadata"]


def release_faults(root):
    return runpy.run_path(str(ROOT / ".ci/check_release.py"))["faults"](root)


def test_addresses_are_all_placeholders_or_all_filled_in():
    urls = dict(line.split(" = ") for line in metadata()["project_urls"].strip().splitlines())
    assert list(urls) == ["Documentation", "Source", "Issues", "Changelog"]
    readme = re.search(
        r"pip install (https://\S+?)/archive", (ROOT / "README.md").read_text(encoding="utf-8")
    )[1]
    assert metadata()["url"] == urls["Source"] == readme
    assert len({"example.invalid/OWNER" in url for url in [*urls.values(), readme]}) == 1


def test_a_release_is_told_of_placeholders_and_versions(tmp_path):
    for name in (
        "setup.cfg",
        "README.md",
        "CITATION.cff",
        "CHANGELOG.md",
        "skinterflow/_version.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    setup = (tmp_path / "setup.cfg").read_text(encoding="utf-8")
    assert sum(fault.startswith("setup.cfg") for fault in release_faults(tmp_path)) == setup.count(
        "example.invalid/OWNER"
    )
    for name in ("setup.cfg", "README.md"):
        path = tmp_path / name
        path.write_text(
            path.read_text(encoding="utf-8").replace("example.invalid/OWNER", "git.example/me"),
            encoding="utf-8",
        )
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## {skinterflow.__version__} (2026-12-01)\n", encoding="utf-8"
    )
    assert release_faults(tmp_path) == []
    (tmp_path / "skinterflow/_version.py").write_text('__version__ = "9.9"\n', encoding="utf-8")
    assert [fault.split()[0] for fault in release_faults(tmp_path)] == [
        "CITATION.cff",
        "CHANGELOG.md",
    ]


def test_the_citation_has_both_papers_and_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {skinterflow.__version__}\n" in citation
    assert {"arXiv:2209.15571", "arXiv:2303.08797"} <= set(re.findall(r"value: (\S+)", citation))


def test_hosted_ci_runs_the_check_on_every_supported_python():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    supported = re.findall(r"Python :: (3\.\d+)", metadata()["classifiers"])
    assert re.findall(r'"(3\.\d+)"', workflow) == supported
    assert metadata().parser["options"]["python_requires"] == f">={supported[0]}"
    assert "- run: .ci/run\n" in workflow


def test_signatures_show_aliases_by_their_names():
    shown = runpy.run_path(str(ROOT / "docs/conf.py"))["with_plain_aliases"]
    signature = "(X: TypeAliasForwardRef('ArrayLike') | None = None, y: int = 0)"
    assert shown(None, "method", "fit", None, None, signature, None) == (
        "(X: ArrayLike | None = None, y: int = 0)",
        None,
    )
    assert shown(
        None, "class", "C", None, None, None, "TypeAliasForwardRef('RandomStateLike')"
    ) == (None, "RandomStateLike")


def test_saving_is_on_the_pages_of_the_estimators():
    """The template of a class leaves out what it inherits, but for these."""
    environment = jinja2.Environment(autoescape=False)
    environment.filters["underline"] = str
    template = environment.from_string(
        (ROOT / "docs/_templates/autosummary/class.rst").read_text(encoding="utf-8")
    )
    estimator = skinterflow.InterpolantFlowDensity
    methods = [
        name for name in dir(estimator) if callable(getattr(estimator, name)) and name[0] != "_"
    ]
    page = template.render(
        objname="E",
        module="m",
        methods=methods,
        inherited_members=[name for name in methods if name not in vars(estimator)],
        underline="",
    )
    assert {"fit", "save", "load"} <= set(re.findall(r"automethod:: (\w+)", page))


@pytest.mark.slow
def test_the_quick_start_reports_its_progress_on_standard_error(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(
        "quick_start_example", ROOT / "examples/quickstart.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    quick = functools.partial(
        skinterflow.InterpolantFlowDensity, hidden_layer_sizes=(4,), max_iter=40
    )
    monkeypatch.setattr(example, "InterpolantFlowDensity", quick)
    monkeypatch.setattr(example.torch, "set_num_threads", lambda n_threads: None)
    monkeypatch.setattr(example, "plot", lambda *arguments: None)
    split = example.standardised_split
    monkeypatch.setattr(example, "standardised_split", lambda X: split(X[:100]))
    example.main("")
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == f"This takes {example.DURATION}."
    assert [line for line in printed.err.splitlines() if line.endswith("...")] == [
        "Tuning KernelDensity by cross-validation ...",
        "Tuning GaussianMixture by cross-validation ...",
        "Fitting InterpolantFlowDensity: four small nets, cross-fitted ...",
        "Scoring the held-out rows ...",
    ]
    assert re.search(r"^step \d+/40: .* remaining$", printed.err, re.M)
    assert "step" not in printed.out
    assert len(re.findall(r"^ +\w+ +-?\d+\.\d+$", printed.out, re.M)) == 3
