from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.domain.prompts import render
from envoi_trace_core.errors import UsageError

identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


def rendered(template: str, **params: object) -> str:
    return render(template, params, source="en.md").text


def test_placeholders_take_their_values():
    assert rendered("Sort {n} {what}, test_{n}.c", n=3, what="words") == "Sort 3 words, test_3.c"
    assert rendered("{flag} {nothing} {items} {ratio}", flag=True, nothing=None, items=["a", 1], ratio=0.5) == (
        'true null ["a", 1] 0.5'
    )


@pytest.mark.parametrize(
    "text",
    [
        "int main() { return 0; }",
        "int main(){return 0;}",
        "{}",
        "{ x }",
        "{0}",
        "{1x}",
        "{x, y}",
        "{x;}",
        "{x.y}",
        "{x!r}",
        "{x:>3}",
        "${HOME}",
        '{"a": 1}',
        "{{1, 2}, {3, 4}}",
        "{{ x }}",
        "struct s {\n  int x;\n};\n",
        "{\nx\n}",
        "{é}",
        "unbalanced { and } and }{",
    ],
)
def test_code_with_braces_stays_as_it_is(text):
    assert rendered(text, x=1, HOME=2) == text


def test_doubled_braces_give_single_ones():
    assert rendered("{{name}} {name}", name="x") == "{name} x"
    assert rendered("{{unknown}}") == "{unknown}"


def test_an_unknown_placeholder_is_named_with_its_line_and_the_way_out():
    with pytest.raises(UsageError) as raised:
        rendered("first\nSort {nmae}", name="x")
    assert raised.value.message == "en.md, line 2: the placeholder {nmae} has no parameter. Did you mean 'name'?"
    assert raised.value.mend == "--param nmae=VALUE, or write {{nmae}} if the braces are meant"


@pytest.mark.parametrize("fence", ["```", "````", "~~~", "  ```"])
def test_in_a_fenced_block_an_unknown_one_stays_and_a_known_one_is_replaced(fence):
    template = f"{fence}c\nchar *a[] = {{NULL}}; // {{n}}\n{fence}\nthen {{n}}\n"
    assert rendered(template, n=3) == f"{fence}c\nchar *a[] = {{NULL}}; // 3\n{fence}\nthen 3\n"


def test_a_fence_ends_at_its_own_kind_only():
    with pytest.raises(UsageError, match="line 5"):
        rendered("````\n```\n{x}\n````\n{x}\n")
    with pytest.raises(UsageError, match="line 1"):
        rendered("```{x}``` is no block")


def test_values_are_put_in_once():
    assert rendered("{a}", a="{b} {{c}}", b="no") == "{b} {{c}}"


@given(st.text(alphabet=st.characters(exclude_characters="{}")))
def test_text_without_braces_stays(text):
    assert rendered(text, x=1) == text


@given(st.text(alphabet='{}$ax0_ ;"\n`'), st.dictionaries(identifiers, st.text()))
def test_it_gives_a_text_or_a_wrong_use_and_uses_only_what_it_names(template, params):
    try:
        result = render(template, params, source="en.md")
    except UsageError:
        return
    assert result.used <= params.keys()
    assert all("{" + name + "}" in template for name in result.used)


@given(identifiers, st.text(), st.text(alphabet="abc \n"), st.text(alphabet="abc \n"))
def test_a_known_placeholder_is_replaced_wherever_it_stands(name, value, before, after):
    assert rendered(before + "{" + name + "}" + after, **{name: value}) == before + value + after


@given(identifiers)
def test_an_escaped_one_is_what_its_error_promised(name):
    with pytest.raises(UsageError) as raised:
        rendered("{" + name + "}")
    assert "{{" + name + "}}" in raised.value.mend
    assert rendered("{{" + name + "}}") == "{" + name + "}"
