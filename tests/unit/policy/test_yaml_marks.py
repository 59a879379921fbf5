"""YAML as an operator means it: 1.2's words, every line known, nothing silently dropped."""

import pytest

from pomerium_agent.policy.yaml_marks import POLICY, Mapping, read_yaml, to_plain


def plain(text: str) -> object:
    found, complaints = read_yaml(text, "config.yaml")
    assert complaints == []
    assert found is not None
    return to_plain(found)


def said(text: str) -> list[str]:
    return [str(complaint) for complaint in read_yaml(text, "config.yaml")[1]]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("1:20", "1:20"),
        ("2020-01-02", "2020-01-02"),
        ("014", 14),
        ("0o14", 12),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ('"null"', "null"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("+7", 7),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_a_word_means_what_yaml_1_2_says(word: str, value: object) -> None:
    found = plain(f"key: {word}")

    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_every_key_knows_its_line() -> None:
    found, _ = read_yaml("a: 1\nb:\n  c: 2\n\n  d:\n    - e: 3\n", "config.yaml")

    assert isinstance(found, Mapping)
    assert found.lines == {"a": 1, "b": 2}
    below = found.items["b"]
    assert isinstance(below, Mapping)
    assert below.lines == {"c": 3, "d": 5}


def test_json_is_read_as_well() -> None:
    assert plain('{"routes": [{"from": "https://a.example.com", "n": 1, "b": true, "z": null}]}') == {
        "routes": [{"from": "https://a.example.com", "n": 1, "b": True, "z": None}]
    }


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    assert said("routes: []\nlog_level: info\nroutes: []\n") == [
        "config.yaml:3: routes: the key routes is given twice, first in line 1; keep one of the two"
    ]


def test_a_merge_fills_in_what_is_not_given() -> None:
    text = "base: &base {timeout: 30s, prefix: /a}\nroute: {<<: *base, prefix: /b}\n"

    assert plain(text) == {
        "base": {"timeout": "30s", "prefix": "/a"},
        "route": {"prefix": "/b", "timeout": "30s"},
    }


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("routes:\n\t- a", 2, "not YAML"),
        ("a: [1, 2", 1, "not YAML"),
        ("a: *nowhere", 1, "undefined alias"),
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("a: \x07", 1, "not YAML"),
        ("a: 1\n---\nb: 2\n", 1, "several documents"),
        ("? [1, 2]\n: 3\n", 1, "a key must be a word"),
        ("a: !python/object 1\n", 1, "means nothing here"),
        ("a: !!int abc\n", 1, "'abc' is no value of type int"),
        ("a: &a [*a]\n", 1, "too many values, or too deep"),
        ("a: " + "[" * 200 + "]" * 200, 1, "too many values, or too deep"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, line: int, reason: str) -> None:
    (complaint,) = (each for each in read_yaml(text, "config.yaml")[1] if reason in each.reason)

    assert complaint.line == line
    assert complaint.remedy


def test_a_small_file_cannot_grow_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    found, complaints = read_yaml("\n".join(lines), "config.yaml")

    assert found is None
    assert "too many values" in complaints[0].reason


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("2020-1-2", "2020-01-02T00:00:00Z"),
        ("2020-01-02 16:20:00", "2020-01-02T16:20:00Z"),
        ("2020-01-02T16:20:00.50+02:00", "2020-01-02T16:20:00.5+02:00"),
        ("2020-01-02T16:20:00", "2020-01-02T16:20:00"),
        ('"2020-01-02"', "2020-01-02"),
    ],
)
def test_a_time_in_a_policy_is_written_out(word: str, text: str) -> None:
    """policy 2.1."""
    found, _ = read_yaml(f"key: {word}", "config.yaml")

    assert found is not None
    assert to_plain(found, timestamps=True) == {"key": text}


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "? " * 200_000])
def test_a_file_of_brackets_is_refused_and_does_not_overrun_the_stack(text: str) -> None:
    found, complaints = read_yaml(text, "config.yaml")

    assert found is None
    assert complaints


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("y", "y"),
        ("2:20:00", "2:20:00"),
        ("16:30", "16:30"),
        ("TRUE", True),
        ("123", 123),
        ("1.5", 1.5),
        ("014", 12),
        ("1_000", 1000),
        ("0b11", 3),
        ("2020-01-02", "2020-01-02T00:00:00Z"),
        ("2020-01-02T16:20:00Z", "2020-01-02T16:20:00Z"),
        ("2020-01-02T16:20:00", "2020-01-02T16:20:00"),
        ("2020-02-30", "2020-02-30"),
    ],
)
def test_a_word_in_a_policy_means_what_the_reference_reads(word: str, value: object) -> None:
    """P-2, policy 2.1."""
    found, complaints = read_yaml(f"[{word}]", "policy", POLICY)

    assert complaints == []
    assert found is not None
    assert to_plain(found, timestamps=True) == [value]


def test_a_policy_is_the_first_document_only() -> None:
    """Policy 2.1."""
    found, complaints = read_yaml("a: 1\n---\n{{{", "policy", POLICY)

    assert complaints == []
    assert found is not None
    assert to_plain(found) == {"a": 1}


@pytest.mark.parametrize("key", ["1", "true", "~", "1.5", "2020-01-02", "[a]", "{a: b}"])
def test_a_key_of_a_policy_is_a_text(key: str) -> None:
    """P-1, policy 2.1."""
    _, complaints = read_yaml(f"? {key}\n: x\n", "policy", POLICY)

    assert [complaint.line for complaint in complaints] == [1]


def test_an_alias_means_what_its_anchor_holds() -> None:
    assert plain("a: &x [1, &y {k: v}]\nb: *x\nc: *y\n") == {
        "a": [1, {"k": "v"}],
        "b": [1, {"k": "v"}],
        "c": {"k": "v"},
    }
