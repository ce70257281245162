"""Merging of configuration layers."""

from recon.config.layers import dotted, make_layer, merge, only, without


def test_later_layers_win_and_their_origin_is_kept():
    base = make_layer({"run": {"samples": 1, "seed": 3}, "description": "a"}, "one")
    merged = merge(base, make_layer({"run": {"samples": 4}}, "two"))
    assert merged.values == {"run": {"samples": 4, "seed": 3}, "description": "a"}
    assert merged.origins == {"run.samples": "two", "run.seed": "one", "description": "one"}


def test_another_method_replaces_the_section_and_its_origins():
    base = make_layer({"method": {"name": "dds", "gamma": 50.0}}, "one")
    merged = merge(base, make_layer({"method": {"name": "dps", "zeta": 0.3}}, "two"))
    assert merged.values["method"] == {"name": "dps", "zeta": 0.3}
    assert merged.origins == {"method.name": "two", "method.zeta": "two"}


def test_the_same_method_keeps_the_other_settings():
    base = make_layer({"method": {"name": "dds", "gamma": 50.0}}, "one")
    merged = merge(base, make_layer({"method": {"name": "dds", "eta": 0.5}}, "two"))
    assert merged.values["method"] == {"name": "dds", "gamma": 50.0, "eta": 0.5}


def test_another_kind_of_noise_keeps_the_section():
    base = make_layer({"noise": {"kind": "gaussian", "sigma": 0.1}}, "one")
    assert merge(base, make_layer({"noise": {"kind": "poisson"}}, "two")).values["noise"]["sigma"] == 0.1


def test_merging_changes_neither_layer():
    base, over = make_layer({"run": {"seed": 1}}, "one"), make_layer({"run": {"seed": 2}}, "two")
    merge(base, over)
    assert (base.values, over.values) == ({"run": {"seed": 1}}, {"run": {"seed": 2}})


def test_a_value_in_place_of_a_section_does_not_crash():
    merged = merge(make_layer({"run": {"seed": 1}}, "one"), make_layer({"run": 3}, "two"))
    assert merged.values == {"run": 3} and merged.origins == {"run": "two"}


def test_parts_of_a_layer():
    layer = make_layer({"run": {"seed": 1}, "method": {"name": "dds"}, "citation": "c"}, "one")
    assert only(layer, "method", "citation").origins == {"method.name": "one", "citation": "one"}
    assert without(layer, "method").values == {"run": {"seed": 1}, "citation": "c"}
    assert dotted({"run": {}, "a": 1}) == ["run", "a"]
