"""Findings that somebody knows of: patterns, where they are looked for, and what is said of what they leave out."""

import pytest

import gradiometer as gm
from gradiometer.config import Ignored, ignored
from gradiometer.records import Diagnosis, Finding
from gradiometer.records.diagnosis import KINDS
from gradiometer.rules import RULES, cases
from gradiometer.rules.silence import silenced

DEAD = Finding("dead_units", "critical", ("blocks.3.act", "blocks.4.act", "head"), {}, "a cause", "an explanation")
VANISHING = Finding(
    "vanishing_gradient", "critical", ("encoder.0", "encoder.1"), {}, "a cause", "text", follows_from="dead_units"
)
MLP = Finding("saturated_units", "warning", ("blocks.3.mlp:tanh",), {}, "a cause", "an explanation")
BOUND = Finding("clipping_bound", "warning", (), {}, "a cause", "an explanation")
ALL = (DEAD, VANISHING, MLP, BOUND)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], {f.kind: f.sites for f in ALL}),
        (["dead_units"], {f.kind: f.sites for f in ALL[1:]}),
        (["encoder.*", "clipping_bound"], {f.kind: f.sites for f in (DEAD, MLP)}),
        (["blocks.3.*"], {"dead_units": DEAD.sites[1:], "vanishing_gradient": VANISHING.sites, "clipping_bound": ()}),
        (["dead_units:blocks.3.*"], {f.kind: f.sites for f in ALL} | {"dead_units": DEAD.sites[1:]}),
        (["dead_units:blocks.*", "dead_units:head"], {f.kind: f.sites for f in ALL[1:]}),
        (["any:head"], {f.kind: f.sites for f in ALL} | {"dead_units": DEAD.sites[:2]}),
        (["*:tanh"], {f.kind: f.sites for f in ALL if f is not MLP}),
        (["blocks.3.mlp:tanh"], {f.kind: f.sites for f in ALL if f is not MLP}),
        (["saturated_units:blocks.3.mlp:tanh"], {f.kind: f.sites for f in ALL if f is not MLP}),
        (["encoder.0"], {f.kind: f.sites for f in ALL} | {"vanishing_gradient": ("encoder.1",)}),
        (["encoder.[01]"], {f.kind: f.sites for f in ALL if f is not VANISHING}),
        (["vanishing_gradient:blocks.*"], {f.kind: f.sites for f in ALL}),
        (["any:*"], {"clipping_bound": ()}),
    ],
)
def test_what_is_left(patterns, left):
    diagnosis = silenced(Diagnosis(ALL, "net"), patterns)
    assert {f.kind: f.sites for f in diagnosis} == left
    assert diagnosis.silenced == len(ALL) - len(left)
    assert diagnosis.subject == "net"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("dead_unit", "'dead_unit' in ignore.*Close to it is dead_units.*'any:dead_unit'"),
        ("vanishing:encoder.*", "kind of finding 'vanishing'.*vanishing_gradient"),
        ("head", f"There is {KINDS[0]}.*{KINDS[-1]}"),
        ("dead_units:", "names no site.*'dead_units:encoder"),
        ("any", "names no site"),
        ("", "no kind of finding ''"),
    ],
)
def test_an_unknown_kind_is_an_error(pattern, said):
    with pytest.raises(gm.InputError, match=said):
        silenced(Diagnosis(()), [pattern])


def test_every_rule_can_be_silenced():
    assert {rule.kind for rule in RULES} <= set(KINDS)
    assert len(set(KINDS)) == len(KINDS) == 18


def test_silence_is_not_health():
    diagnosis = silenced(Diagnosis((DEAD, MLP), "net"), KINDS, "pyproject.toml")
    assert diagnosis.healthy is True
    assert str(diagnosis) == "net · healthy · 2 findings silenced (pyproject.toml)"
    assert diagnosis.to_dict()["silenced"] == 2
    assert diagnosis.to_dict()["silenced_by"] == "pyproject.toml"
    unknown = silenced(Diagnosis((DEAD,), conclusive=False), ["dead_units"])
    assert unknown.healthy is None
    assert unknown.silence == "1 finding silenced (ignore)"
    nothing = silenced(Diagnosis((DEAD,)), ["underflow"])
    assert (nothing.silenced, nothing.silenced_by, nothing.silence) == (0, "", "")


def test_what_followed_from_a_silenced_finding_stays():
    both = Diagnosis((DEAD, VANISHING))
    assert [(f.kind, [g.kind for g in under]) for f, under in both.stories] == [("dead_units", ["vanishing_gradient"])]
    assert "1  dead units" in str(both)
    assert "   follows from it: vanishing gradient, critical. text." in str(both)
    left = silenced(both, ["dead_units"])
    assert [f.kind for f, _ in left.stories] == ["vanishing_gradient"]
    assert "1  vanishing gradient [critical]" in str(left)
    assert "follows from: dead units" in str(left)


def test_a_story_is_followed_link_by_link_and_never_in_a_circle():
    def finding(kind, cause):
        return Finding(kind, "warning", (), {}, "", "text", follows_from=cause)

    stalled, second = finding("stalled_training", "vanishing_gradient"), finding("dead_units", None)
    chain = Diagnosis((DEAD, stalled, VANISHING, second))
    assert [(f, [g.kind for g in under]) for f, under in chain.stories] == [
        (DEAD, ["stalled_training", "vanishing_gradient"]),
        (second, []),
    ]
    circle = Diagnosis((finding("dead_units", "underflow"), finding("underflow", "dead_units")))
    assert [len(under) for _, under in circle.stories] == [0, 0]


# -- pyproject.toml -------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes pyproject.toml in a folder, and works in one two levels below it."""
    below = tmp_path / "packages" / "one"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    def write(text, folder="."):
        (tmp_path / folder / "pyproject.toml").write_text(text, encoding="utf-8")

    return write


def test_the_nearest_file_with_our_table_counts(project):
    assert ignored() == Ignored()
    project('[tool.gradiometer]\nignore = ["dead_units"]')
    project("[project]\nname = 'one'", "packages/one")
    assert ignored() == Ignored(("dead_units",), "pyproject.toml")
    project("[tool.gradiometer]", "packages")
    assert ignored().patterns == ()
    assert ignored(["underflow"]) == Ignored(("underflow",), "ignore")
    assert ignored(iter([])) == Ignored((), "ignore")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.gradiometer\n", "is no TOML.*correct it"),
        ('[tool.gradiometer]\nignore = "dead_units"', "takes a list of patterns"),
        ("[tool.gradiometer]\nignore = [1]", "takes a list of patterns"),
        ("[tool.gradiometer]\nignored = []", "sets ignored: only ignore is known"),
    ],
)
def test_a_file_that_says_something_else(project, text, said):
    project(text)
    with pytest.raises(gm.InputError, match=said) as caught:
        ignored()
    assert "pyproject.toml" in str(caught.value)
    with pytest.raises(gm.InputError, match="takes a list of patterns"):
        ignored("dead_units")


def test_a_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert ignored() == Ignored()


def test_diagnose_reads_it_unless_told_otherwise(project):
    sick = cases.chain([0.2] * 12, "sigmoid", loss="stalled").last
    assert gm.diagnose(sick).healthy is False
    project('[tool.gradiometer]\nignore = ["vanishing_gradient"]')
    diagnosis = gm.diagnose(sick)
    assert (diagnosis.healthy, diagnosis.silence) == (True, "1 finding silenced (pyproject.toml)")
    assert gm.diagnose(sick, ignore=()).healthy is False
    assert gm.diagnose(sick, ignore=["dead_units"]).healthy is False
    assert gm.diagnose(sick, ignore=["fc*"]).silenced == 1
    with pytest.raises(gm.InputError, match="vanishing_gradient"):
        gm.diagnose(sick, ignore=["vanishing_gradients"])
