"""``blade-dist config``: the settings printed, and explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import blade_dist.cli
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.explain import explain_config
from blade_dist.settings.load import change, dump_config, load_config
from blade_dist.settings.walk import every_field, section_of
from tests.helpers.paths import CONFIGS

LORA = ("learner", "lora")


def prints(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command ``config`` says; exit code 0, or 2 with an error."""
    patch.setattr("sys.argv", ["blade-dist", "config", *arguments])
    with pytest.raises(SystemExit) as stop:
        blade_dist.cli.main()
    said = capsys.readouterr()
    assert stop.value.code == (2 if said.err else 0)
    return said.err or said.out


def words(comments: str) -> str:
    """Comments without what the line ends have put between the words."""
    return " ".join(comments.replace("#", " ").split())


def test_every_setting_and_section_is_documented() -> None:
    result = dict(every_field())
    assert len(result) > 130
    assert (*LORA, "rank") in result
    assert [".".join(path) for path, field in result.items() if not field.description] == []


def test_no_setting_s_help_only_restates_its_name() -> None:
    helps = {
        ".".join(path): field.description or "" for path, field in every_field() if not section_of(field.annotation)
    }
    assert [name for name, text in helps.items() if len(set(text.lower().split()) - set(name.split("_"))) < 8] == []


def test_the_explained_tree_has_every_setting_below_its_description() -> None:
    lines = explain_config(load_config(None)).splitlines()
    whole = words("\n".join(line for line in lines if line.strip().startswith("#")))
    for path, field in every_field():
        assert words((field.description or "").replace("``", "`")) in whole
        indent = "  " * (len(path) - 1)
        indent = f"  # {indent[2:]}" if path[:2] == LORA and len(path) > 2 else indent
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{indent}{path[-1]}:"))
        assert lines[at - 1].startswith(f"{indent}# ")


@settings(deadline=None)
@given(
    prompt=st.text().map(lambda text: f"{text}{{history}}\n{text}"),
    weights=st.dictionaries(st.text(min_size=1), st.floats(0.1, 9), min_size=1),
    lora=st.booleans(),
)
def test_what_is_explained_loads_again(prompt: str, weights: dict, lora: bool) -> None:
    tree = Config().model_dump(mode="json")
    change(tree, "codec.prompt", prompt)
    change(tree, "reward.weights", weights)
    change(tree, "learner.lora", {"rank": 8} if lora else None)
    config = Config.model_validate(tree)
    said = explain_config(config, ["codec.prompt", "reward.weights", "learner.lora"])  # all would be slow
    assert Config.model_validate(yaml.safe_load(said)) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_explained_tree_is_the_one_that_is_dumped(path: Path) -> None:
    config = load_config(path)
    assert yaml.safe_load(explain_config(config)) == yaml.safe_load(dump_config(config))


@pytest.mark.parametrize("name", [".".join(path) for path, _ in every_field() if path[:2] != LORA])
def test_any_section_or_setting_can_be_shown_alone(name: str) -> None:
    shown, whole = yaml.safe_load(explain_config(Config(), [name])), Config().model_dump(mode="json")
    for part in name.split("."):
        assert list(shown) == [part]
        shown, whole = shown[part], whole[part]
    assert shown == whole


def test_values_that_can_be_counted_are_listed() -> None:
    said = words(explain_config(load_config(None), ["posterior.ties", "run.compare", "posterior.tau"]))
    assert "One of: le, mid, lt, exact. ties: le" in said
    assert "Any of: static, bond, grpo, best_of_n_sft. compare: []" in said
    assert "One of: auto" not in said


def test_what_a_section_that_is_left_out_would_hold_is_a_comment() -> None:
    meaning = "# An adapter's part is scaled by `alpha / rank`. Raising it acts like a higher learning rate."
    absent = explain_config(load_config(None), ["learner.lora.alpha"])
    assert absent.endswith(f"lora: null\n  # lora:\n  #   {meaning}\n  #   alpha: 32\n")
    present = explain_config(load_config(None, ["learner.lora={alpha: 5}"]), ["learner.lora.alpha"])
    assert present.endswith(f"lora:\n    {meaning}\n    alpha: 5\n")
    assert section_of(Config.model_fields["learner"].annotation) is type(Config().learner)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("posteriro", "posterior"),
        ("posterior.tua", "posterior.tau"),
        ("lerner.lr", "learner.lr"),
        ("tau", "posterior.tau"),
        ("data.synthetic.user", "data.synthetic.users"),
        ("reward.weights.ndcg@5", "reward.weights"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError) as error:
        explain_config(load_config(None), ["prior", name])
    assert str(error.value) == f"{name}: unknown setting; did you mean {near}?"


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("prior: {size: 7}\n")
    (tmp_path / "posterior").mkdir()
    config = load_config(tmp_path / "my.yaml", ["posterior.tau=0.5"])
    changed = ("--set", "posterior.tau=0.5")
    assert prints(monkeypatch, capsys) == dump_config(Config())
    assert prints(monkeypatch, capsys, "my.yaml", *changed) == dump_config(config)
    assert prints(monkeypatch, capsys, "my.yaml", "--explain", *changed) == explain_config(config)
    names = ("prior.size", "posterior")
    assert prints(monkeypatch, capsys, "my.yaml", *changed, "--explain", *names) == explain_config(config, names)
    assert prints(monkeypatch, capsys, "--explain", "posterior") == explain_config(Config(), ["posterior"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: No such file"),
        (["nowhere.yaml", "--explain"], "nowhere.yaml: No such file"),
        (["below/nowhere", "--explain"], "below/nowhere: No such file"),
        (["--explain", "posteriro"], "posteriro: unknown setting; did you mean posterior?"),
        (["my.yaml", "prior"], "prior: one CONFIG is printed; sections or settings are named after --explain"),
    ],
)
def test_the_command_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert f"error: {message}" in prints(monkeypatch, capsys, *arguments)
