"""Files of fences: every way to write a key, every mistake with its place, and no text that does harm."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.core.spec import Fences
from ringfence.core.spec_read import Document, document, merged
from ringfence.core.spec_yaml import SpecError
from ringfence.engine import fences
from ringfence.units import GIB, MIB


def read(text: str | bytes) -> Document:
    return document(text, "f.yaml", fences.words(), fences.read_value)


def settings_of(text: str) -> dict[str, object]:
    """What the only fence of a text sets."""
    (rule,) = read(f"fences: {{web1: {text}}}" if text.startswith("{") else text).rules
    return {setting.key: setting.value for setting in rule.settings}


def complaint(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert caught.value.exit_code == 2
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "written",
    [
        "{disks: {vda: {iops: 500, iops_burst: 2000 for 10s}}}",
        "{disk: {vda: {iops: 500, iops.burst: 2000, iops.burst_length: 10s}}}",
        "{disks: {vda: {iops: 500, iops_burst: 2000, iops_burst_length: 10}}}",
        "{disk.vda.iops: 500, disk.vda.iops.burst: '2000 for 10s'}",
        "{disk.vda: {iops: 500, iops_burst: 2k for 10s}}",
    ],
)
def test_a_key_may_be_nested_dotted_or_joined(written: str) -> None:
    wanted = {"disk.vda.iops": 500, "disk.vda.iops.burst": 2000, "disk.vda.iops.burst_length": 10}
    assert settings_of(written) == wanted


def test_a_group_may_be_nested_below_a_key_that_has_a_value_of_its_own() -> None:
    assert settings_of("{disks: {vda: {iops: {read: 5, write: 6}}}}") == {
        "disk.vda.iops.read": 5,
        "disk.vda.iops.write": 6,
    }


def test_names_of_instances_may_hold_dots_and_nearly_anything() -> None:
    assert settings_of("{disks: {/dev/a.b-0: {iops: 5}}, disk.some.node-0.bps: 1M}") == {
        "disk./dev/a.b-0.iops": 5,
        "disk.some.node-0.bps": MIB,
    }


def test_words_of_yaml_are_not_turned_into_other_things() -> None:
    assert settings_of("{disks: {vda: {latency_histogram: on, pool: none, iops: unlimited, bps: 010}}}") == {
        "disk.vda.latency_histogram": "on",
        "disk.vda.pool": None,
        "disk.vda.iops": None,
        "disk.vda.bps": 10,
    }


def test_anchors_and_merges_say_what_they_say_in_yaml() -> None:
    (first, second) = read(
        "fences:\n  a: &base {vcpus: 2, memory: {target: 1GiB}}\n  b: {<<: *base, vcpus: 3}\n"
    ).rules
    assert {s.key: s.value for s in second.settings} == {"vcpus": 3, "memory.target": GIB}
    assert first.settings[0].place.line == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fences: {web1: {disks: {vda: {iop: 5}}}}", "f.yaml:1:31: there is no knob 'iop' did you mean iops"),
        ("fences:\n  web1:\n    memry: {target: 1}", "f.yaml:3:5: there is no knob 'memry' did you mean memory"),
        ("fence: {}", "f.yaml:1:1: there is no section 'fence' did you mean fences?"),
        ("fences: {web1: {vcpus: many}}", "f.yaml:1:24: vcpus: cannot read 'many'"),
        ("fences: {web1: {vcpus: {a: 1}}}", "vcpus is a value, not a group"),
        ("fences: {web1: {memory: 1GiB}}", "'memory' is a group in it are target"),
        ("fences: {web1: {disks: {vda: 5}}}", "'vda' is a group in it are iops"),
        ("fences: {web1: {vcpus: }}", "vcpus has no value give one, or `unlimited`"),
        ("fences: {web1: {vcpus: 1}, web1: {vcpus: 2}}", "'web1' is given twice, first in line 1"),
        ("fences: {web1: {vcpus: 1, vcpus: 2}}", "'vcpus' is given twice"),
        ("fences: {web1: {disks: {vda: {iops: 1}}, disk.vda.iops: 2}}", "disk.vda.iops is given twice"),
        ("fences:\n\tweb1: 1", "f.yaml:2:1: this is no YAML"),
        (b"fences: {w\xff: 1}", "f.yaml:1:11: it is not UTF-8"),
        ("a: 1\n---\nb: 2", "a second document begins here"),
        (
            "fences: !!python/object:os.system {}",
            "the tag tag:yaml.org,2002:python/object:os.system means nothing",
        ),
        ("fences: &a {web1: *a}", "*a stands within itself"),
        ("fences: *nobody", "nobody"),
        ("? [a, b]\n: 1", "cannot be a key"),
        (
            "fences: {'label:gold': {vcpus: 1}}\nlabels: {gld: [web1]}",
            "there is no label 'gold' did you mean gld?",
        ),
        ("labels: {a: ['label:b'], b: ['label:a']}\nfences: {web1: {vcpus: 1}}", "a -> b -> a"),
        ("drift: maybe", "drift is one of repair, warn, off"),
        ("version: 2", "this version of the file's form is not known"),
        ("just a text", "the file is a group"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        merged([("f.yaml", read(text))])
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_everything_that_is_wrong_is_told_at_once() -> None:
    said = complaint("fences:\n  web1: {vcpu: 1, cpus: 2}\n  web2: {memory: {target: x}}\n")
    assert said.startswith("3 things are wrong:")
    assert re.findall(r"f\.yaml:(\d+):", said) == ["2", "2", "3"]


def test_bombs_and_depths_end_soon_and_in_words() -> None:
    lines = ["x-a0: &a0 {k: x}"]
    lines += [f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    bomb = "\n".join(lines) + "\nfences: {web1: {vcpus: *a29}}"
    assert "vcpus is a name, or a list of names" in complaint(bomb)
    merges = "x-a: &a {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\nfences:\n"
    merges += "\n".join(f"  w{n}: {{<<: *a}}" for n in range(2000))
    assert "parts" in complaint(merges)
    assert "nest" in complaint("[" * 100_000)
    assert "nest" in complaint("fences: " + "{a: " * 5000 + "}" * 5000)
    assert "larger than" in complaint(b"#" * (9 * MIB))


_TEXTS = st.text(alphabet="ab:{}[]&*!<>-?,'\"|%@ \n\t#0~.\x00\x85\ufeff\U0001f600", max_size=60)
_WORDS = st.sampled_from(
    ["fences", "defaults", "labels", "pools", "web1", "disks", "vda", "iops", "memory", "target", "<<", "*a", "&a"]
)
_VALUES = st.recursive(
    _TEXTS | _WORDS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | _TEXTS, inner, max_size=3),
    max_leaves=12,
)


def _only_spec_errors(text: str | bytes) -> None:
    with suppress(SpecError):
        merged([("f.yaml", read(text))])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80) | _TEXTS)
def test_no_text_gives_a_traceback(text: str | bytes) -> None:
    _only_spec_errors(text)


@settings(max_examples=60, deadline=None)
@given(_VALUES)
def test_no_structure_gives_a_traceback(value: object) -> None:
    import yaml

    _only_spec_errors(yaml.safe_dump({"fences": value, "labels": value, "pools": value}))
    _only_spec_errors(yaml.safe_dump({"fences": {"web1": value}, "defaults": value}))


SPEC = """
labels: {bronze: [web1, "b-*"], metal: ["label:bronze", web9]}
defaults: {vcpus: 1, disks: {vda: {iops: 10}}}
fences:
  web1: {vcpus: 4}
  "web*": {vcpus: 3, memory: {target: 1GiB, min: 512MiB}, drift: warn}
  "label:metal": {vcpus: 2, memory: {target: 2GiB}}
"""


def test_the_nearer_rule_goes_before_and_defaults_hold_only_for_who_is_named() -> None:
    found = Fences(merged([("f.yaml", read(SPEC))]), fences.bound_keys())
    web1 = found.of([("vm", "web1")])
    assert web1 is not None
    assert {key: (s.value, s.rule) for key, s in web1.settings.items()} == {
        "vcpus": (4, "web1"),
        "disk.vda.iops": (10, "defaults"),
        "memory.target": (GIB, "web*"),
    }
    assert [(s.key, s.value) for s in web1.bounds.values()] == [("memory.min", 512 * MIB)]
    assert (web1.rules, web1.drift) == (("defaults", "label:metal", "web*", "web1"), "warn")
    metal = found.of([("vm", "b-7")])
    assert metal is not None
    assert metal.settings["vcpus"].value == 2
    assert metal.drift == "repair"
    assert found.of([("vm", "other")]) is None
    assert found.of([("container", "web1")]) is None
    assert found.of([("vm", "web9")]) is not None
    assert [rule.selector.text for rule in found.missing([[("vm", "b-7")]])] == ["web1"]


def test_tenants_that_the_same_rules_meet_share_one_fence() -> None:
    found = Fences(merged([("f.yaml", read(SPEC))]), fences.bound_keys())
    assert found.of([("vm", "b-1")]) is found.of([("vm", "b-2")])
