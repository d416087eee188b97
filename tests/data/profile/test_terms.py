"""Terms are readable, sure, and named once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seektune.data.profile.terms import TERMS, Term, typical


def numbered(start: str, count: int = 50) -> list[str]:
    return [f"{start} {n}" for n in range(count)]


def names(terms: tuple[Term, ...]) -> list[str]:
    return [term.text for term in terms]


def test_words_of_one_side_only_are_typical_of_it_with_their_shares() -> None:
    train, target = typical(numbered("the patient's fever"), numbered("the long film"))
    assert set(train) == {Term("patient's", 1.0, 0.0), Term("fever", 1.0, 0.0)}
    assert set(target) == {Term("long", 0.0, 1.0), Term("film", 0.0, 1.0)}


def test_a_word_of_one_side_comes_before_a_common_word_that_is_merely_commoner_there() -> None:
    train = [*numbered("the thing", 70), *numbered("thing", 30)]
    target = [*numbered("the film", 60), *numbered("the thing", 40)]
    assert names(typical(train, target)[1]) == ["film", "the"]


def test_overlapping_runs_are_named_once_by_the_longest() -> None:
    train, target = typical(numbered("病人发热"), numbered("请分析下面这句话的意图"))
    assert names(train) == ["病人发热"]
    assert names(target) == ["请分析下面这句话的意图"]


def test_scripts_may_mix_in_a_text() -> None:
    _, target = typical(numbered("问题"), numbered("转为json格式"))
    assert set(names(target)) == {"转为", "json", "格式"}


def test_options_set_off_by_letters_are_a_term() -> None:
    _, target = typical(numbered("which"), [f"which {n}\nA. x{n}\nB. y{n}" for n in range(50)])
    assert names(target) == ["A."]


def test_chance_differences_are_not_named() -> None:
    assert typical(numbered("a cup of tea", 40), numbered("a cup of tea", 60)) == ((), ())
    assert typical([*numbered("tea"), "rare word"], numbered("tea")) == ((), ())


@given(st.lists(st.text(max_size=60), min_size=1), st.lists(st.text(max_size=60), min_size=1))
def test_shares_are_shares_and_terms_are_few(train: list[str], target: list[str]) -> None:
    for terms in typical(train, target):
        assert len(terms) <= TERMS
        assert len(set(names(terms))) == len(terms)
        assert all(0 <= share <= 1 for term in terms for share in (term.train, term.target))


def test_long_texts_are_capped_not_refused() -> None:
    train, _ = typical([f"{'甲乙' * 200_000}{n}" for n in range(3)], numbered("短"))
    assert len(train) <= TERMS
