"The three ways to solve an arrangement agree on whatever Hypothesis invents"
import pytest
from hypothesis import given, settings, strategies as st
from reasonlab.logic import Arrangement, holds, normal, possible


@st.composite
def constraints(draw, objects):
    "One constraint of any kind, perhaps negated, places sometimes out of range"
    n = len(objects)
    one, place = st.sampled_from(objects), st.integers(0, n + 2)
    kind = draw(st.sampled_from(('before', 'after', 'adjacent', 'at',
                                 'at_from_end', 'in', 'slot')))
    if kind in ('at', 'at_from_end'): c = (kind, draw(one), draw(place))
    elif kind == 'in': c = (kind, draw(one), tuple(draw(st.lists(place, max_size=3))))
    elif kind == 'slot': c = (kind, draw(place), tuple(draw(st.lists(one, max_size=3))))
    else: c = (kind, draw(one), draw(one))
    for _ in range(draw(st.integers(0, 2))): c = ('not', c)
    return c


@st.composite
def theories(draw, most=5):
    objects = tuple('abcdefg'[:draw(st.integers(1, most))])
    return Arrangement(objects, tuple(draw(st.lists(constraints(objects), max_size=6))))


@settings(max_examples=300, deadline=None)
@given(theories())
def test_search_is_the_definition(theory):
    found = list(theory.models())
    assert len(found) == len(set(found))
    assert set(found) == set(theory.models('reference'))


@settings(max_examples=60, deadline=None)
@given(theories(4))
def test_z3_agrees(theory):
    pytest.importorskip('z3', reason="z3 is an extra: pip install 'reasonlab[solvers]'")
    assert set(theory.models('z3')) == set(theory.models('search'))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_counterexample_is_one(data):
    theory = data.draw(theories())
    claim = data.draw(constraints(theory.objects))
    order = theory.counterexample(claim)
    if order is None:
        assert all(holds(claim, m) for m in theory.models('reference'))
    else:
        assert all(holds(c, order) for c in theory.constraints)
        assert not holds(claim, order)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_normal_keeps_the_meaning(data):
    objects = tuple('abcd')
    c = data.draw(constraints(objects))
    same = normal(c, 4)
    assert normal(same, 4) == same
    assert all(holds(c, m) == holds(same, m)
               for m in Arrangement(objects).models('reference'))


@settings(max_examples=60, deadline=None)
@given(theories())
def test_possible_is_the_union_of_models(theory):
    models = list(theory.models('reference'))
    assert possible(theory) == tuple(frozenset(m[k] for m in models)
                                     for k in range(len(theory.objects)))


def test_seven_objects_entail_what_they_state():
    objects = tuple('abcdefg')
    for k in range(1, 8):
        assert Arrangement(objects, (('at', 'a', k),)).entails(('at', 'a', k))
