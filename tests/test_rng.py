"""One seed a run, one generator a role."""

import itertools

import numpy as np
import pytest
import torch

from energyscape.errors import UserError
from energyscape.rng import Streams, generator_for, global_seed, seed_for


def draw(generator):
    return torch.rand(4, generator=generator).tolist()


def test_seeds_differ_for_every_role_and_part():
    parts = [(), ("data",), ("chains",), ("data", 0), ("data", 1), ("data", "0"), ("data", "chains"), ("data, 0",)]
    seeds = [seed_for(seed, *part) for seed, part in itertools.product((0, 1, 2**40), parts)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_process_and_release():
    # The value of a cryptographic hash: were it to change, no run could be repeated.
    assert seed_for(0, "data") == 6391988775681866114
    assert draw(generator_for(0, "data")) == draw(generator_for(0, "data"))


@pytest.mark.parametrize("make", [np.int64, np.uint8, np.array, torch.tensor, lambda n: torch.tensor(n).byte()])
def test_an_integer_of_whatever_type_is_one_seed(make):
    assert seed_for(make(3), "data", make(1)) == seed_for(3, "data", 1)
    assert draw(Streams(make(3))["data"]) == draw(Streams(3)["data"])
    assert seed_for(True, np.str_("data"), False) == seed_for(1, "data", 0)
    assert seed_for(-1, "data") != seed_for(1, "data")


@pytest.mark.parametrize("bad", [0.5, 3.0, None, "3", torch.ones(2), np.float64(3)])
def test_a_seed_that_is_no_integer_is_refused(bad):
    with pytest.raises(UserError, match="a seed is an integer"):
        seed_for(bad, "data")
    with pytest.raises(UserError, match="strings and integers"):
        seed_for(3, "data", b"x" if bad == "3" else bad)


def test_the_global_generator_is_put_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with global_seed(1):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with global_seed(1):
        assert torch.equal(torch.rand(3), first)
    with global_seed(2):
        assert not torch.equal(torch.rand(3), first)


def test_streams_do_not_disturb_one_another():
    alone, together = Streams(3), Streams(3)
    draw(together["other"])
    assert draw(alone["chains"]) == draw(together["chains"])
    assert draw(alone["chains"]) != draw(Streams(4)["chains"])
    assert draw(Streams(3)["a"]) != draw(Streams(3)["b"])


def test_streams_go_on_from_a_state():
    streams = Streams(3)
    draw(streams["a"])
    kept = streams.state()
    first = [draw(streams["a"]) for _ in range(3)], draw(streams["b"])
    other = Streams(3)
    draw(other["b"])
    other.restore(kept)
    # A role that the state does not know starts afresh, whatever it had drawn before.
    assert ([draw(other["a"]) for _ in range(3)], draw(other["b"])) == first
    assert set(kept) == {"a"}
