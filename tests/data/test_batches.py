"""Batches: a pure function of (seed, position)."""

import itertools

import pytest
import torch

from energyscape.data import Checkerboard, EightGaussians, Images, TwoMoons, batches, digits
from energyscape.errors import UserError

ROWS = torch.arange(7, dtype=torch.float32).view(7, 1)
IMAGES = Images(torch.arange(7 * 12, dtype=torch.uint8).view(7, 3, 2, 2), torch.arange(7), white=100)

SOURCES = {
    "law": TwoMoons,
    "images": lambda: IMAGES,
    "rows": lambda: ROWS,
    "rows-float64-labels": lambda: (ROWS.double(), torch.arange(7) % 3),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]()


def draw(stream, count):
    return [next(stream) for _ in range(count)]


def same(left, right):
    def equal(a, b):
        return a is b is None or (a.dtype == b.dtype and torch.equal(a, b))

    assert len(left) == len(right)
    return all(equal(a.x, b.x) and equal(a.label, b.label) for a, b in zip(left, right, strict=True))


def stream_of(source, size, count, **settings):
    return torch.cat([batch.x for batch in itertools.islice(batches(source, size, **settings), -(-count // size))])[
        :count
    ]


@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_going_on_from_a_position_equals_not_stopping(source, size):
    stream = batches(source, size, seed=1)
    whole = draw(stream, 9)
    assert stream.position == 9 * size
    assert same(whole[4:], draw(batches(source, size, seed=1, start=4 * size), 5))
    stream.seek(2 * size)
    assert same(whole[2:5], draw(stream, 3))
    stream.seek(0)
    assert same(whole, draw(stream, 9))


def test_the_seed_matters(source):
    first, second = (draw(batches(source, 5, seed=seed), 3) for seed in (0, 1))
    assert same(first, draw(batches(source, 5, seed=0), 3))
    assert not same(first, second)


def test_leaves_the_global_generator_alone(source):
    before = torch.random.get_rng_state()
    draw(batches(source, 5), 3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["images", "rows", "rows-float64-labels"])
def test_the_stream_does_not_depend_on_the_batch_size(name):
    source = SOURCES[name]()
    one = stream_of(source, 1, 60, seed=2)
    for size in (2, 5, 7, 8, 30):
        assert torch.equal(one, stream_of(source, size, 60, seed=2))


def test_every_row_once_an_epoch_in_another_order():
    rows = torch.arange(100.0).view(100, 1)
    epochs = stream_of(rows, 30, 400).view(4, 100)
    assert torch.equal(epochs.sort(1).values, rows.T.expand(4, 100))
    for a, b in itertools.combinations(epochs, 2):
        # Two independent permutations agree in one place on average, Poisson: more than 8 has probability 1e-6.
        assert (a == b).sum() <= 8


def test_each_place_of_an_epoch_is_uniform():
    # 7 rows, 2,000 epochs: the row in the first place is each with probability 1/7, within 5 standard errors.
    first = stream_of(ROWS, 7 * 100, 7 * 2000, seed=3).view(2000, 7)[:, 0]
    share = torch.bincount(first.long(), minlength=7) / 2000
    assert ((share - 1 / 7).abs() < 5 * (1 / 7 * 6 / 7 / 2000) ** 0.5).all()


def test_labels_stay_with_their_samples():
    for batch in draw(batches(IMAGES, 5), 6):
        assert torch.equal(batch.x, IMAGES.floats(batch.label))
    for batch in draw(batches((ROWS.double(), torch.arange(7) % 3), 5), 6):
        assert torch.equal(batch.x.flatten().long() % 3, batch.label)
    assert next(batches(ROWS, 2)).label is None
    assert next(batches(TwoMoons(), 2)).label is None


def test_images_come_as_numbers_from_minus_one_to_one():
    batch = next(batches(digits(), 1498))
    assert (batch.x.min(), batch.x.max()) == (-1, 1)
    everything = digits()
    # One epoch is the whole set: sums of multiples of 1/8 are exact in float32.
    assert torch.equal(batch.x.sum(0), everything.floats().sum(0))
    assert torch.equal(torch.bincount(batch.label), torch.bincount(everything.labels))


def test_batches_of_a_law_are_independent_draws():
    x = stream_of(EightGaussians(), 50, 20_000, seed=4).double()
    left, right = x.view(-1, 2, 50, 2)[:, 0].flatten(), x.view(-1, 2, 50, 2)[:, 1].flatten()
    # Correlation of consecutive batches: standard error 1 / sqrt(n).
    correlation = torch.corrcoef(torch.stack([left, right]))[0, 1]
    assert abs(correlation) < 5 / len(left) ** 0.5
    # E |x|^2 = radius^2 + 2 std^2.
    squared = (x**2).sum(1)
    assert abs(squared.mean() - (2.83**2 + 2 * 0.354**2)) < 5 * squared.std() / len(squared) ** 0.5


def test_no_draw_of_a_law_comes_twice():
    assert len(stream_of(TwoMoons(), 1, 100).unique(dim=0)) == 100


def test_tells_its_name_and_shape():
    assert batches(Checkerboard(), 2).name == "Checkerboard"
    assert (batches(digits(), 2).name, batches(digits(), 2).shape) == ("digits", (1, 8, 8))
    assert batches(IMAGES, 2).shape == next(batches(IMAGES, 2)).x.shape[1:] == (3, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: batches(ROWS, 0), "a batch holds at least one sample; its size was 0"),
        (lambda: batches(TwoMoons(), -3), "its size was -3"),
        (lambda: batches(ROWS[:0], 2), "the source is empty"),
        (lambda: batches(digits().subset(slice(0, 0)), 2), "digits: .* the source is empty"),
        (lambda: batches(ROWS, 2, start=-1), "it was -1"),
        (lambda: batches(ROWS, 2).seek(-2), "it was -2"),
        (lambda: batches(torch.arange(6).view(3, 2), 2), "floating point .* it came as torch.int64"),
        (lambda: batches(torch.zeros(3), 2), r"of shape \(N, \*\)"),
        (lambda: batches((ROWS, torch.zeros(6)), 2), r"each of 7 rows; they came as \(6,\)"),
        (lambda: batches([1.0, 2.0], 2), "it was list"),
    ],
)
def test_a_mistake_is_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_which_images_are_mirrored_does_not_depend_on_the_batch_and_changes_from_epoch_to_epoch():
    images = Images(torch.arange(2, dtype=torch.uint8).repeat(12, 1).view(12, 1, 1, 2), white=1)  # each: black, white
    small, large = batches(images, 4, seed=3, flips=True), batches(images, 12, seed=3, flips=True)
    first = torch.cat([next(small).x for _ in range(6)])
    assert torch.equal(first, torch.cat([next(large).x for _ in range(2)]))
    mirrored = first[:, 0, 0, 0] > 0
    assert 0 < int(mirrored[:12].sum()) < 12
    assert not torch.equal(mirrored[:12], mirrored[12:])
    again = batches(images, 4, seed=3, start=8, flips=True)
    assert torch.equal(next(again).x, first[8:12])
