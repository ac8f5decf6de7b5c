import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.search import racing
from ropewalk.search.racing import Floats, Race, RacingSettings, student_quantile

EQUAL = (32,) * 5
UNEQUAL = (8, 64, 16, 32, 24)
AUTOCORRELATION = 0.8
TOKEN_SPREAD, DOCUMENT_SPREAD = 0.03, 0.05  # nats


def noise(generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Floats:
    """Mean 0, variance 1."""
    if kind == "t3":
        return generator.standard_t(3, shape) / math.sqrt(3)
    if kind == "skewed":
        return generator.exponential(size=shape) - 1
    return generator.standard_normal(shape)


def candidates(
    generator: np.random.Generator,
    num: int,
    tokens: tuple[int, ...],
    *,
    spread: float = DOCUMENT_SPREAD,
    of_tokens: str = "normal",
    of_documents: str = "normal",
) -> Floats:
    """Sums of nats, shape (num, D): each candidate has its own way with each document, and tokens resemble
    their neighbours."""
    shocks = noise(generator, of_tokens, (num, len(tokens), max(tokens)))
    token, sums = np.zeros((num, len(tokens))), np.zeros((num, len(tokens)))
    for position in range(max(tokens)):
        token = AUTOCORRELATION * token + shocks[:, :, position]
        sums += np.where(position < np.array(tokens), token, 0)
    own_way = spread * noise(generator, of_documents, sums.shape)
    return (2 + own_way) * np.array(tokens) + TOKEN_SPREAD * sums


def worse(sums: Floats, nats: Floats | float, tokens: tuple[int, ...]) -> Floats:
    """The same with so many nats more a token in every document."""
    return sums + np.multiply.outer(nats, np.array(tokens))


def moved_to(final: float, sums: Floats, tokens: tuple[int, ...]) -> Floats:
    """A candidate with this final mean and its gaps unchanged."""
    return worse(sums, final - sums.sum() / sum(tokens), tokens)


def race_of(finished: Floats, tokens: tuple[int, ...], settings: RacingSettings | None = None) -> Race:
    race = Race(tokens, settings or RacingSettings())
    for sums in finished:
        race.finished(sums.tolist())
    return race


def read_until(race: Race, sums: Floats) -> int:
    """How many documents of a challenger are read."""
    looks = range(1, len(sums) + 1)
    return next((k for k in looks if race.verdict(sums[:k].tolist()).drop), len(sums))


def null_races(
    num: int, num_finished: int, tokens: tuple[int, ...], seed: int = 0, **kinds: object
) -> Iterator[int]:
    """Documents read of challengers that would win by a hair: the worst that can be dropped."""
    generator = np.random.default_rng(seed)
    for _ in range(num):
        drawn = candidates(generator, num_finished + 1, tokens, **kinds)  # type: ignore[arg-type]
        drawn[:-1] = worse(drawn[:-1], generator.exponential(0.1, num_finished), tokens)
        leader = drawn[:-1].sum(axis=1).min() / sum(tokens)
        yield read_until(race_of(drawn[:-1], tokens), moved_to(leader - 1e-9, drawn[-1], tokens))


@pytest.mark.parametrize("num_finished", [17, 33])
@pytest.mark.parametrize(
    ("tokens", "kinds"),
    [
        (EQUAL, {"spread": 0.0}),
        (EQUAL, {}),
        (EQUAL, {"spread": 0.5}),
        (UNEQUAL, {}),
        (UNEQUAL, {"spread": 0.0, "of_tokens": "t3"}),
        (EQUAL, {"of_documents": "t3"}),
        (EQUAL, {"of_documents": "skewed"}),
        ((32, 32), {}),
        ((16,) * 12, {"of_documents": "t3"}),
    ],
    ids=str,
)
def test_would_be_winners_are_dropped_no_more_often_than_stated(
    tokens: tuple[int, ...], kinds: dict[str, object], num_finished: int
) -> None:
    num = 800
    dropped = sum(read < len(tokens) for read in null_races(num, num_finished, tokens, **kinds))

    assert dropped <= num * 0.01 + 2 * math.sqrt(num * 0.01 * 0.99)


def test_the_limit_on_degrees_of_freedom_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = sum(read < 5 for read in null_races(1500, 40, EQUAL, seed=1, of_documents="skewed"))
    monkeypatch.setattr(racing, "MOST_DEGREES", 1000)
    unlimited = sum(read < 5 for read in null_races(1500, 40, EQUAL, seed=1, of_documents="skewed"))

    assert limited <= 15 < unlimited


def test_the_error_holds_late_in_a_search_where_only_survivors_teach() -> None:
    generator, asked, dropped = np.random.default_rng(2), 0, 0
    for _ in range(10):
        drawn = worse(candidates(generator, 400, EQUAL), generator.exponential(0.1, 400), EQUAL)
        race, leader, finished = Race(EQUAL, RacingSettings()), math.inf, 0
        for index, sums in enumerate(drawn):
            if index > 100:  # a verdict changes nothing, so each candidate is also asked for as a winner
                asked += 1
                dropped += read_until(race, moved_to(leader - 1e-9, sums, EQUAL)) < 5
            if read_until(race, sums) == 5:
                race.finished(sums.tolist())
                leader, finished = min(leader, sums.sum() / sum(EQUAL)), finished + 1
        assert finished < 300  # or it was no test

    assert dropped <= asked * 0.01


@pytest.mark.parametrize("tokens", [EQUAL, UNEQUAL], ids=str)
def test_clearly_worse_candidates_are_dropped_early(tokens: tuple[int, ...]) -> None:
    generator, read = np.random.default_rng(3), []
    for _ in range(200):
        drawn = candidates(generator, 34, tokens)
        drawn[1:-1] = worse(drawn[1:-1], generator.exponential(0.1, 32), tokens)
        race = race_of(drawn[:-1], tokens)
        read.append(read_until(race, worse(drawn[-1], 8 * DOCUMENT_SPREAD, tokens)) / len(tokens))

    assert np.mean(read) < 0.4
    assert np.mean(np.array(read) < 1) > 0.99


def test_a_misleading_first_document_is_learnt() -> None:
    """Every challenger looks bad on document 1 and makes it good later: nobody is dropped for that."""
    generator = np.random.default_rng(4)
    drawn = candidates(generator, 34, EQUAL)
    drawn[1:, 0] += 32 * 1.0
    drawn[1:, 1:] -= 32 * 0.25
    drawn[:-1] = worse(drawn[:-1], 0.02 * np.arange(33), EQUAL)
    race = race_of(drawn[:-1], EQUAL)
    leader = drawn[:-1].sum(axis=1).min() / sum(EQUAL)

    assert read_until(race, moved_to(leader - 1e-9, drawn[-1], EQUAL)) == 5
    assert read_until(race, moved_to(leader + 1, drawn[-1], EQUAL)) == 1


def test_only_those_nearest_to_the_reference_teach() -> None:
    generator = np.random.default_rng(10)
    near = worse(candidates(generator, 33, EQUAL), generator.exponential(0.1, 33), EQUAL)
    far = worse(candidates(generator, 40, EQUAL, spread=1.0), 20.0, EQUAL)
    challenger = [100.0, 60.0]

    assert race_of(np.concatenate([far, near]), EQUAL).verdict(challenger) == race_of(near, EQUAL).verdict(
        challenger
    )


def test_nothing_is_dropped_before_enough_teach() -> None:
    drawn = candidates(np.random.default_rng(5), 17, EQUAL)
    hopeless = worse(drawn[0], 1000.0, EQUAL)
    race = Race(EQUAL, RacingSettings(fewest_teachers=16))
    for sums in drawn[:-1]:
        assert read_until(race, hopeless) == 5
        race.finished(sums.tolist())

    assert read_until(race, hopeless) == 5  # the leader and 15 teachers
    race.finished(drawn[-1].tolist())
    assert read_until(race, hopeless) == 1


def test_teachers_that_are_all_alike_teach_nothing() -> None:
    race = race_of(np.tile(np.array(EQUAL) * 2.0, (40, 1)), EQUAL)

    assert read_until(race, worse(np.array(EQUAL) * 2.0, 1.0, EQUAL)) == 5


def test_keeping_the_best_few_compares_with_the_last_of_them() -> None:
    drawn = worse(candidates(np.random.default_rng(6), 40, EQUAL), np.arange(40) * 0.3, EQUAL)
    # Between the first and the tenth, and far from either.
    between = worse(drawn[0], 1.5, EQUAL)

    assert read_until(race_of(drawn, EQUAL), between) < 5
    assert read_until(race_of(drawn, EQUAL, RacingSettings(keep_best=10)), between) == 5
    assert read_until(race_of(drawn, EQUAL, RacingSettings(keep_best=41)), worse(between, 9.0, EQUAL)) == 5


def test_the_estimate_is_the_difference_so_far_less_what_teachers_gaps_were() -> None:
    # By hand, one token a document, D = 2. The leader: 0, 0. Gaps after one document: 1, 2, 3, 4.
    teachers = [(g + 10.0, 10.0 - g) for g in (1, 2, 3, 4)]
    race = Race((1, 1), RacingSettings(fewest_teachers=4, num_teachers=4, error=0.05))
    for sums in [(0.0, 0.0), *teachers]:
        race.finished(sums)
    verdict = race.verdict([10.0])

    assert verdict.difference_nats == pytest.approx(10 - 2.5)
    assert verdict.standard_error_nats == pytest.approx(math.sqrt(5 / 3 * 5 / 4))
    assert verdict.lower_bound_nats == pytest.approx(7.5 - 2.353363 * math.sqrt(5 / 3 * 5 / 4), abs=1e-5)
    assert verdict.drop
    assert not race.verdict([5.8]).drop


def test_the_error_is_shared_out_over_the_looks() -> None:
    race = race_of(candidates(np.random.default_rng(9), 33, EQUAL), EQUAL)
    for k in range(1, 5):
        verdict = race.verdict([100.0] * k)
        width = (verdict.difference_nats - verdict.lower_bound_nats) / verdict.standard_error_nats
        assert width == pytest.approx(student_quantile(0.01 / 4, 6))


def test_no_bound_is_narrower_than_a_teachers_gap() -> None:
    teachers = [(10.0, 10.0)] * 15 + [(10.5, 10.0), (14.0, 6.0)]
    race = race_of(np.array([(0.0, 0.0), *teachers]), (1, 1), RacingSettings(error=0.5))

    assert not race.verdict([3.9]).drop
    assert race.verdict([4.1]).drop


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_failed_candidate_is_not_dropped_and_neither_leads_nor_teaches(bad: float) -> None:
    drawn = candidates(np.random.default_rng(7), 40, EQUAL)
    race, untouched = race_of(drawn, EQUAL), race_of(drawn, EQUAL)
    race.finished([bad, *drawn[0][1:]])
    race.finished([*drawn[0][:-1], bad])
    verdict = race.verdict([100.0, bad])

    assert not verdict.drop
    assert math.isnan(verdict.difference_nats)
    assert race.verdict([300.0]) == untouched.verdict([300.0])


def test_a_replay_through_json_decides_bit_for_bit_alike() -> None:
    drawn = worse(candidates(np.random.default_rng(8), 80, UNEQUAL), np.linspace(0.3, 0, 80), UNEQUAL)
    journalled = np.array(json.loads(json.dumps(drawn[:40].tolist())))
    once, again = race_of(drawn[:40], UNEQUAL), Race(UNEQUAL, RacingSettings())
    for sums in journalled:
        again.verdict(sums[:1].tolist())  # asking leaves no trace
        again.finished(sums.tolist())
    for sums in drawn[40:]:
        verdicts = [once.verdict(sums[:k].tolist()) for k in range(1, 6)]
        assert [again.verdict(sums[:k].tolist()) for k in range(1, 6)] == verdicts
        once.finished(sums.tolist())
        again.finished(sums.tolist())


nats = st.floats(0, 1e4)


@given(
    st.integers(1, 4).flatmap(
        lambda d: st.tuples(
            st.lists(st.lists(nats, min_size=d, max_size=d), max_size=12),
            st.lists(nats, min_size=d, max_size=d),
        )
    ),
    st.floats(1e-6, 0.5),
)
def test_whoever_was_read_to_the_end_is_not_dropped_and_known_exactly(
    given_sums: tuple[list[list[float]], list[float]], error: float
) -> None:
    finished, challenger = given_sums
    tokens = tuple(range(1, len(challenger) + 1))
    race = race_of(np.array(finished), tokens, RacingSettings(error=error, fewest_teachers=4))
    verdict = race.verdict(challenger)

    assert not verdict.drop
    if finished:
        leader = min(sum(sums) for sums in finished) / sum(tokens)
        assert verdict.difference_nats == pytest.approx(sum(challenger) / sum(tokens) - leader, abs=1e-9)
        assert verdict.standard_error_nats == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1))
def test_a_worse_challenger_and_a_larger_error_are_dropped_sooner(
    seed: int, k: int, nats_worse: float, share: float
) -> None:
    generator = np.random.default_rng(seed)
    means = generator.normal(2, 0.05, (21, 5)) * np.array(UNEQUAL)
    error = 1e-6 + share * (0.5 - 1e-6)
    strict = race_of(means[:-1], UNEQUAL, RacingSettings(error=1e-6))
    lax = race_of(means[:-1], UNEQUAL, RacingSettings(error=error))
    sums, more = means[-1][:k].tolist(), worse(means[-1], nats_worse, UNEQUAL)[:k].tolist()

    assert strict.verdict(sums).lower_bound_nats <= lax.verdict(sums).lower_bound_nats
    assert strict.verdict(sums).lower_bound_nats <= strict.verdict(more).lower_bound_nats


@pytest.mark.parametrize(
    ("tail", "degrees", "published"),
    [
        # Abramowitz and Stegun, Table 26.10.
        (0.025, 1, 12.706),
        (0.025, 2, 4.303),
        (0.005, 3, 5.841),
        (0.005, 4, 4.604),
        (0.0025, 7, 4.029),
        (0.0025, 8, 3.833),
        (0.0005, 30, 3.646),
        (0.5, 5, 0.0),
    ],
)
def test_student_quantiles_are_the_published_ones(tail: float, degrees: int, published: float) -> None:
    assert student_quantile(tail, degrees) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"error": 0.0}, "error is 0.0"),
        ({"error": 0.7}, "error is 0.7"),
        ({"error": math.nan}, "error is nan"),
        ({"fewest_teachers": 3}, "3 to 32 teachers"),
        ({"num_teachers": 8}, "16 to 8 teachers"),
        ({"keep_best": 0}, "keeps the 0 best"),
    ],
)
def test_settings_out_of_range_are_one_line(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words) as raised:
        RacingSettings(**settings)  # type: ignore[arg-type]

    assert "\n" not in str(raised.value)
