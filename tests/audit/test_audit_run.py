"""The runner: settings, skips, budget, resume, reports, warnings, and the command."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from audit_doubles import Oracle

from recon.audit import settings as audit_settings
from recon.audit.catalog import DEFAULT, all_cases, case_info
from recon.audit.noise import BatchNoise
from recon.audit.pictures import pictures
from recon.audit.published import audit_facts, condensed, published
from recon.audit.report import markdown
from recon.audit.rows import DIVERGED, SKIPPED, Row
from recon.audit.settings import PRESET, TUNED, Settings, curve_settings, preset_settings, tuned_settings
from recon.audit.trial import run_trial
from recon.config.presets import load_preset
from recon.errors import ConfigError, InputError, OutputExistsError, ThresholdError, UsageError
from recon.runs import audit as runs
from recon.runs.audit import AuditRequest, Trialed, audit_one, parse_given, parse_kinds, plan_audit, run_audit
from recon.runs.audit_files import finish_report, open_report, read_rows
from recon.runs.methods import SAMPLERS, make_method

SMALL = AuditRequest(samples=200)


@pytest.fixture
def oracle(monkeypatch):
    """Put a method in the table that draws what it is told."""

    def install(**changes):
        monkeypatch.setitem(SAMPLERS, "oracle", ("audit_doubles", "Oracle", "exact"))
        monkeypatch.setattr(runs, "method_class", lambda name: Oracle)
        monkeypatch.setattr(runs, "make_method", lambda name, params: Oracle(**{**changes, **params}))

    return install


def _row(case, **changes):
    return audit_one(Trialed("oracle", Settings(PRESET, "defaults", {"case": case, **changes}), case), SMALL, None)


@pytest.mark.parametrize("case", ["gaussian-sr4-16", "gaussian-fourier-complex-8", "mixture-2", "scalar-poisson"])
def test_an_exact_method_is_exact_through_the_runner(oracle, case):
    oracle()
    row = _row(case)
    assert row.status == "done" and row.nfe == 4 and row.samples == 200 * case_info(case).share
    assert row.linear_gaussian == case.startswith("gaussian")
    assert row.statistics["mean"]["value"] < 0.05
    assert all(abs(e["value"] - 1) < 0.09 for e in row.statistics["std"].values())
    assert not _row(case, spread=0.7).within and not _row(case, shift=0.3).within


def test_samples_that_are_not_finite_are_a_finding(oracle):
    oracle()
    row = _row("scalar-linear", nan=True)
    assert row.status == DIVERGED and not row.within and row.statistics is None and row.reason
    assert _row("scalar-linear", shift=1e4).status == DIVERGED


def test_the_same_seed_gives_the_same_row():
    trial = Trialed("dds", Settings(PRESET, "defaults", {"steps": 5}), "gaussian-inpaint-8")
    first, again = (replace(audit_one(trial, SMALL, None), seconds=0) for _ in range(2))
    assert first == again
    other = audit_one(trial, replace(SMALL, seed=1), None)
    assert other.statistics != first.statistics


def test_batches_have_their_own_noise():
    one, two = (BatchNoise(0, "case", index).normal((4, 2)) for index in (0, 1))
    assert not torch.equal(one, two) and torch.equal(one, BatchNoise(0, "case", 0).normal((4, 2)))
    from recon.audit.cases import build_case

    case = build_case("scalar-linear")
    done = run_trial(make_method("dds", {"steps": 3}), case, 4500, 0)
    assert done.rows.shape == (4500, 1) and len(done.rows.unique()) > 4400 and done.nfe == 3


def test_what_cannot_run_is_skipped_with_the_reason():
    refused = Trialed("dds", Settings(PRESET, "defaults", {}), "scalar-amplitude")
    row = audit_one(refused, SMALL, None)
    assert row.status == SKIPPED and "linear" in row.reason and row.statistics is None
    assert row.cells()[3] == SKIPPED and row.reason in row.cells()


def test_a_trial_that_would_take_too_long_is_skipped_early(oracle, monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE", 0.0)
    oracle(delay=0.05)
    trial = Trialed("oracle", Settings(PRESET, "defaults", {"case": "scalar-linear"}), "scalar-linear")
    row = audit_one(trial, SMALL, 0.19)
    assert row.status == SKIPPED and "takes about" in row.reason
    assert "is spent" in audit_one(trial, SMALL, -1.0).reason
    assert audit_one(trial, SMALL, 60.0).status == "done"


def test_preset_settings_are_those_of_the_shipped_preset():
    found = preset_settings("dds", case_info("gaussian-inpaint-32"))
    section = load_preset("inpaint-random-dds").layer.values["method"]
    assert found.source == "preset inpaint-random-dds"
    assert {"name": "dds", **found.params} == section
    assert preset_settings("dds", case_info("mixture-8")) == Settings(PRESET, "defaults", {})


def test_tuned_settings_go_from_general_to_particular(monkeypatch):
    content = {"tuned": {"steps": 9, "eta": 1.0, "gaussian": {"eta": 0.5}, "gaussian-sr4": {"steps": 3}}}
    content["curve"] = {
        "setting": "steps",
        "values": [1, {"steps": 2, "grid": "edm"}],
        "cases": ["gaussian-sr4-16"],
        "eta": 0.0,
    }
    monkeypatch.setattr(audit_settings, "_read", lambda method: content)
    assert tuned_settings("x", case_info("mixture-2")).params == {"steps": 9, "eta": 1.0}
    assert tuned_settings("x", case_info("gaussian-ct-32")).params == {"steps": 9, "eta": 0.5}
    assert tuned_settings("x", case_info("gaussian-sr4-64")).params == {"steps": 3, "eta": 0.5}
    points = curve_settings("x")
    assert [(case, s.params) for case, s in points] == [
        ("gaussian-sr4-16", {"steps": 1, "eta": 0.0}),
        ("gaussian-sr4-16", {"steps": 2, "eta": 0.0, "grid": "edm"}),
    ]
    monkeypatch.setattr(audit_settings, "_read", lambda method: {})
    assert tuned_settings("x", case_info("mixture-2")) is None and curve_settings("x") == []


@pytest.mark.parametrize("method", sorted(SAMPLERS))
def test_every_tuned_setting_is_one_of_the_method(method):
    for name in all_cases():
        tuned = tuned_settings(method, case_info(name))
        if tuned is not None:
            make_method(method, tuned.params)
        make_method(method, preset_settings(method, case_info(name)).params)
    for case, point in curve_settings(method):
        make_method(method, point.params)
        assert point.source in point.params and case_info(case)


def test_settings_files_belong_to_methods():
    folder = Path(audit_settings.__file__).parent / "settings"
    names = {path.stem for path in folder.glob("*.toml")}
    assert names and names <= set(SAMPLERS)


def test_plans_cover_what_is_asked():
    work = plan_audit(AuditRequest(methods=["dds"], cases=["mixture-2"]))
    assert [(t.settings.kind, t.case) for t in work] == [(PRESET, "mixture-2"), (TUNED, "mixture-2")]
    assert {t.case for t in plan_audit(AuditRequest(methods=["dds"]))} == set(DEFAULT)
    full = plan_audit(AuditRequest(methods=["dps"], full=True, curves=True))
    assert {t.case for t in full} >= set(all_cases()) and any(t.settings.kind == "curve" for t in full)
    only = plan_audit(AuditRequest(methods=["dps"], curves=True))
    assert only and all(t.settings.kind == "curve" for t in only)
    given = plan_audit(AuditRequest(methods=["dds"], cases=["mixture-2"], given={"steps": 7}))
    assert [t.settings.params for t in given] == [{"steps": 7}]
    assert {t.method for t in plan_audit(AuditRequest(cases=["mixture-2"]))} == set(SAMPLERS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["ddz"]}, "unknown method 'ddz'"),
        ({"methods": ["tv"]}, "draws no samples"),
        ({"cases": ["x"]}, "unknown audit case"),
        ({"samples": 10}, "at least 100"),
        ({"methods": ["dds"], "given": {"stepz": 1}}, "no setting 'stepz'"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan_audit(AuditRequest(**changes))


def test_kinds_and_given_settings_are_parsed():
    assert parse_kinds("both") == (PRESET, TUNED) and parse_kinds("tuned") == (TUNED,)
    with pytest.raises(UsageError):
        parse_kinds("best")
    assert parse_given(["method.steps=7", "method.grid=edm"]) == {"steps": 7, "grid": "edm"}
    for wrong in ("run.seed=1", "method.name=dps"):
        with pytest.raises(ConfigError):
            parse_given([wrong])


def _rows():
    """Rows of a real run, of two cases, and a curve."""
    request = AuditRequest(methods=["dds"], cases=["gaussian-inpaint-8", "scalar-amplitude"], samples=100)
    rows = list(run_audit(request))
    points = [replace(rows[0], kind="curve", source="steps", params={"steps": n}, nfe=n) for n in (5, 50)]
    return request, [*rows, *points, replace(rows[0], method="dps", status=DIVERGED, statistics=None)]


def test_a_report_is_written_and_resumed(tmp_path, monkeypatch):
    request, rows = _rows()
    folder = tmp_path / "new" / "report"
    assert open_report(folder, resume=False, force=False) == []
    outputs = finish_report(folder, rows, 0)
    assert {Path(p).name for p in outputs.values()} == {p.name for p in folder.iterdir()}
    assert {"audit.json", "audit.md", "mean-preset.png", "curve-gaussian-inpaint-8.png"} <= {
        Path(p).name for p in outputs.values()
    }
    for name in outputs.values():
        if name.endswith(".png"):
            assert Path(name).read_bytes()[:4] == b"\x89PNG"
    page = (folder / "audit.md").read_text()
    for text in ("## dds", "gaussian-inpaint-8", "## Convergence curves", "steps = 50", "(mean-preset.png)"):
        assert text in page
    assert read_rows(folder / "audit.json") == rows
    with pytest.raises(OutputExistsError):
        open_report(folder, resume=False, force=False)
    known = open_report(folder, resume=True, force=False)
    ran = []
    monkeypatch.setattr(runs, "run_trial", lambda *a: ran.append(a))
    assert next(run_audit(request, known)) == rows[0] and not ran
    (folder / "audit.json").write_text("{}")
    with pytest.raises(InputError, match="no report"):
        open_report(folder, resume=True, force=False)


def test_pictures_are_left_out_where_there_is_nothing_to_draw():
    assert pictures([]) == {}
    row = Row("dds", PRESET, "defaults", {}, "mixture-2", 1, 0, SKIPPED, False, "why")
    assert pictures([row]) == {}
    assert "why" in markdown([row], {}, {})


def _published(std, use=1.0, **changes):
    row = {
        "method": "x", "kind": "preset", "source": "defaults", "case": "gaussian-sr4-32", "status": "done",
        "linear_gaussian": True, "within": False, "mean": 0.0, "std": std, "data_use": use,
    }  # fmt: skip
    return {**row, **changes}


def test_warnings_follow_from_recorded_numbers():
    def lines(*rows):
        return audit_facts("x", rows)["warnings"]

    assert lines(_published({"a": 0.9, "b": 1.2})) == []
    (line,) = lines(_published({"a": 0.9, "b": 0.03}), _published({"a": 1.0}, case="mixture-2"))
    assert line == "collapses its spread: gaussian-sr4-32 (0.03 of the exact one)"
    named = [
        _published({"a": std}, source="preset sr4-x", case=f"gaussian-sr4-{size}")
        for std, size in ((0.2, 32), (0.1, 64))
    ]
    (line,) = lines(*named)
    assert line == "collapses its spread: sr4-x (0.1 of the exact one, gaussian-sr4-64)"
    wide = [_published({"a": std}, source="preset sr4-x") for std in (2.5, 4.0)]
    assert lines(*wide) == ["spreads too far: sr4-x (4 times the exact spread, gaussian-sr4-32)"]
    assert "spreads too far" in lines(_published({"a": 2.5}))[0]
    assert "ignores its data" in lines(_published({"a": 1.0}, use=0.2))[0]
    assert lines(_published({"a": 1.0}, use=0.2, linear_gaussian=False)) == []
    diverged = {k: v for k, v in _published({}).items() if k not in ("mean", "std", "data_use")}
    assert lines({**diverged, "status": DIVERGED}) == ["diverges: gaussian-sr4-32"]
    assert lines(_published({"a": 0.1}, kind="tuned")) == []
    facts = audit_facts(
        "x", [_published({"a": 1.0}, within=True), _published({"a": 1.0}), _published({"a": 1.0}, kind="tuned")]
    )
    assert "1 of 2 linear-Gaussian cases at preset" in facts["audit"] and "0 of 1" in facts["audit"]
    assert audit_facts("y", [_published({"a": 1.0})]) == {"audit": "not audited", "warnings": []}


def test_published_rows_are_condensed_rows_of_a_run():
    _, rows = _rows()
    found = [condensed(asdict(row)) for row in rows]
    assert found[0]["std"].keys() == rows[0].statistics["std"].keys() and "std" not in found[-1]
    assert audit_facts("dds", found)["audit"].startswith("within the bars on 0 of 1")
    known = {"method", "kind", "source", "case", "status", "linear_gaussian", "within", "mean", "std", "data_use"}
    for row in published():
        assert set(row) <= known and row["method"] in SAMPLERS and case_info(row["case"])


def test_the_command_prints_one_table_or_one_object(call, tmp_path):
    arguments = ("audit", "-m", "dds", "--case", "mixture-2", "--samples", "100", "--settings", "preset", "-q")
    table = call(*arguments).splitlines()
    assert table[0].split()[:3] == ["method", "settings", "case"] and table[1].split()[:3] == [
        "dds",
        "preset",
        "mixture-2",
    ]
    found = json.loads(call(*arguments, "--json"))
    assert found["judged"] == 1 and found["rows"][0]["params"] == {} and found["bars"] == {"mean": 0.02, "std": 0.05}
    folder = tmp_path / "r"
    again = json.loads(call(*arguments, "--json", "--report", str(folder), "-s", "method.steps=4"))
    assert again["rows"][0]["kind"] == "given" and again["rows"][0]["nfe"] == 4
    assert set(again["outputs"]) == {"json", "page"}
    with pytest.raises(OutputExistsError):
        call(*arguments, "--report", str(folder))


def test_strict_turns_a_missed_bar_into_a_threshold(call, oracle, capsys):
    with pytest.raises(ThresholdError, match="1 of 1 rows miss") as caught:
        call("audit", "-m", "dds", "--case", "mixture-2", "--samples", "100", "--settings", "preset", "--strict", "-q")
    assert caught.value.exit_code == 8 and "mixture-2" in capsys.readouterr().out
    oracle(case="scalar-linear")
    call(
        "audit",
        "-m",
        "oracle",
        "--case",
        "scalar-linear",
        "--samples",
        "1000",
        "--settings",
        "preset",
        "--strict",
        "-q",
    )


def test_a_method_shows_what_the_published_audit_found(call, monkeypatch):
    from recon.audit import published as module

    monkeypatch.setattr(module, "published", lambda: [_published({"a": 0.02}, method="dds")])
    assert "collapses its spread" in call("methods", "show", "dds")
    shown = json.loads(call("methods", "show", "dds", "--json"))
    assert len(shown["warnings"]) == 1 and "0 of 1" in shown["audit"]
    assert "audit" not in json.loads(call("methods", "show", "tv", "--json"))


@pytest.mark.slow
def test_the_default_audit_of_dds(call):
    found = json.loads(call("audit", "-m", "dds", "--samples", "100", "-q", "--json", "--settings", "preset"))
    assert {row["case"] for row in found["rows"]} == set(DEFAULT)
    done = {row["case"]: row for row in found["rows"] if row["status"] == "done"}
    assert len(done) >= len(DEFAULT) - 1
    # its presets fit the data to their noise: measured lines keep much of their spread, though not all
    low = done["gaussian-fourier-32"]["statistics"]["std"]["0-1/8"]
    assert 0.4 < low["value"] < 0.9
