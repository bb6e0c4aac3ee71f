"""Starting points of chains, and the persistence of persistent ones."""

import itertools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.objectives import STARTS, ConstantInit, DataInit, MixtureInit, NoiseInit, ReplayBuffer
from energyscape.samplers import HMC, Langevin, run


def test_every_start_has_a_case():
    assert {name.split(":")[0] for name in cases.STARTS} == set(STARTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", cases.SHAPES.values(), ids=cases.SHAPES.keys())
@pytest.mark.parametrize("name", cases.STARTS)
def test_contract(name, shape, dtype):
    data = cases.normal(12, *shape, dtype=dtype)
    kept = data.clone()

    def go(seed):
        start, stream = cases.STARTS[name]().to(cases.DEVICE), cases.generator(seed)
        drawn = []
        for _ in range(4):
            x, handle = start.draw(12, like=data, generator=stream)
            drawn.append(x.clone())
            start.commit(handle, x + 1)
        return torch.stack(drawn), start

    x, start = go(1)
    again, twin = go(1)
    assert x.shape == (4, 12, *shape)
    assert x.dtype == dtype
    assert not x.requires_grad
    assert torch.equal(x, again)
    assert torch.equal(data, kept)
    for key, value in start.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key])
    assert all(each.ndim == 0 and not each.requires_grad for each in start.facts().values())
    if name != "data":
        assert not torch.equal(x, go(2)[0])


def test_data_starts_at_the_data():
    data = cases.normal(8, 2)
    x, _ = DataInit().draw(5, like=data)
    assert torch.equal(x, data[:5])
    with pytest.raises(UserError, match="9 chains cannot start at 8"):
        DataInit().draw(9, like=data)


def test_constant_points_have_uniform_levels():
    x, _ = ConstantInit(low=-1.0, high=3.0).draw(4_000, like=cases.normal(2, 1, 3, 3), generator=cases.generator(4))
    assert torch.equal(x, x[:, :, :1, :1].expand_as(x))
    level = x[:, 0, 0, 0].double()
    # Uniform on [-1, 3]: mean 1, variance 16 / 12; five standard errors.
    assert float(level.mean()) == pytest.approx(1, abs=5 * math.sqrt(16 / 12 / 4_000))
    assert float(level.var()) == pytest.approx(16 / 12, rel=5 * math.sqrt(0.8 / 4_000))
    assert -1 <= level.min() < level.max() <= 3
    with pytest.raises(ValueError, match="low is below high"):
        ConstantInit(low=1.0, high=1.0)


def test_chains_that_start_at_the_data_do_not_write_to_it():
    data = cases.normal(8, 2).requires_grad_()
    kept = data.detach().clone()
    x, handle = DataInit().draw(8, like=data)
    state, _ = run(Langevin(cases.correlated().energy, step_size=0.1), x, steps=3, generator=cases.generator())
    DataInit().commit(handle, state.x)
    assert torch.equal(data.detach(), kept)
    assert not x.requires_grad


def test_noise_is_uniform_between_its_limits():
    x, _ = NoiseInit(low=-2.0, high=0.5).draw(2**15, like=cases.normal(3, 2), generator=cases.generator())
    assert -2 <= float(x.min()) < -1.99  # the chance that all of 65,536 keep away from an end is e^-262
    assert 0.49 < float(x.max()) <= 0.5
    assert abs(cases.z_score(x.flatten(), -0.75)) < 5
    assert abs(cases.z_score((x.flatten() + 0.75).square(), 2.5**2 / 12)) < 5
    assert abs(cases.z_score((x[:, 0] + 0.75) * (x[:, 1] + 0.75))) < 5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mixture_draws_its_share_from_the_first(share):
    mixture = MixtureInit(NoiseInit(low=5.0, high=6.0), NoiseInit(low=-6.0, high=-5.0), share=share)
    stream, data = cases.generator(), cases.normal(2, 2)
    first = torch.cat([(mixture.draw(64, like=data, generator=stream)[0][:, 0] > 0).double() for _ in range(200)])
    n = len(first)
    assert abs(float(first.sum()) - n * share) <= 5 * math.sqrt(n * share * (1 - share))


def test_a_mixture_gives_each_start_its_own_chains_back():
    one, two = filled(20, offset=0.0), filled(30, offset=1000.0)
    mixture, stream = MixtureInit(one, two, share=0.4), cases.generator()
    expected = one.chains.clone(), two.chains.clone()
    for _ in range(50):
        x, handle = mixture.draw(16, like=one.chains, generator=stream)
        here, first, second = handle
        expected[0][first.slot] += 0.5
        expected[1][second.slot] += 0.5
        assert len(first.slot) == here
        mixture.commit(handle, x + 0.5)
    assert torch.equal(one.chains, expected[0])
    assert torch.equal(two.chains, expected[1])
    assert int(mixture.facts()["lineages"]) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseInit(low=1.0, high=1.0), "low is below high"),
        (lambda: ReplayBuffer(0), "capacity is at least 1"),
        (lambda: ReplayBuffer(5, refresh=1.1), "probability"),
        (lambda: ReplayBuffer(5, refresh=math.nan), "probability"),
        (lambda: ReplayBuffer(5, stored="byte", low=1.0, high=1.0), "low is below high"),
        (lambda: MixtureInit(DataInit(), DataInit(), share=-0.1), "probability"),
    ],
)
def test_chain_init_refuse_nonsense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- replay buffers ---------------------------------------------------------------------------------------------------


def filled(capacity, *, offset=0.0, refresh=0.0, fresh=None):
    """A buffer whose chain in slot i is at (i, i), plus an offset."""
    buffer = ReplayBuffer(capacity, refresh=refresh, fresh=fresh)
    slots = torch.arange(capacity, dtype=torch.float64, device=cases.DEVICE)
    buffer.chains = slots[:, None].expand(-1, 2).clone() + offset
    return buffer.to(cases.DEVICE)


def test_a_buffer_gives_no_more_chains_than_it_has():
    with pytest.raises(UserError, match="a replay buffer of 5 slots cannot give 6"):
        ReplayBuffer(5).draw(6, like=cases.normal(6, 2))


def test_a_buffer_is_filled_from_its_fresh_start_and_is_its_own_copy():
    data = cases.normal(8, 2)
    buffer = ReplayBuffer(20, fresh=DataInit())
    buffer.draw(8, like=data, generator=cases.generator())
    assert torch.equal(buffer.chains, data[torch.arange(20) % 8])
    data.zero_()
    assert float(buffer.chains.abs().min()) > 0
    noise = ReplayBuffer(2**12)
    noise.draw(8, like=data, generator=cases.generator())
    assert -1 <= float(noise.chains.min()) < -0.99
    assert 0.99 < float(noise.chains.max()) <= 1
    assert abs(cases.z_score(noise.chains.flatten())) < 5


def test_chains_go_back_into_their_own_slots_and_others_are_untouched():
    buffer, stream = filled(100), cases.generator()
    visits = torch.zeros(100, device=cases.DEVICE)
    for _ in range(200):
        before = buffer.chains.clone()
        x, handle = buffer.draw(16, like=buffer.chains, generator=stream)
        index = handle.slot
        assert index.unique().numel() == 16
        assert torch.equal(x, before[index])
        assert torch.equal(buffer.chains, before)
        moved = x + cases.normal(16, 2, seed=int(index[0]))
        buffer.commit(handle, moved)
        assert torch.equal(buffer.chains[index], moved)
        rest = torch.ones(100, dtype=torch.bool, device=cases.DEVICE)
        rest[index] = False
        assert torch.equal(buffer.chains[rest], before[rest])
        visits[index] += 1
    assert torch.equal(buffer.age, visits.long())
    assert torch.equal(buffer.lineage, torch.arange(100, device=cases.DEVICE))
    assert int(buffer.born) == 100
    # All slots are drawn alike: 100 binomials of 200 trials at 0.16.
    assert float((visits - 32).abs().max()) < 5 * math.sqrt(200 * 0.16 * 0.84)


def test_no_lineage_dies():
    """A chain keeps its values over 1,000 updates; a buffer that scatters its chains keeps 40 of 4,096."""
    buffer, stream = filled(4096), cases.generator()
    for _ in range(1000):
        x, handle = buffer.draw(256, like=buffer.chains, generator=stream)
        buffer.commit(handle, x)
    slots = torch.arange(4096, dtype=torch.float64, device=cases.DEVICE)
    assert torch.equal(buffer.chains[:, 0], slots)
    assert int(buffer.facts()["lineages"]) == 4096


@pytest.mark.parametrize(
    "kernel", [lambda e: HMC(e, step_size=0.25, leapfrog_steps=2), lambda e: Langevin(e, step_size=0.01)]
)
def test_mode_shares_stay(kernel):
    energy = cases.eight_modes()
    buffer, stream = ReplayBuffer(4096, refresh=0.0).to(cases.DEVICE), cases.generator(1)
    mode = torch.arange(4096, device=cases.DEVICE) % 8
    buffer.chains = energy.means[mode] + 0.3 * cases.normal(4096, 2)
    moves, before = kernel(energy), buffer.chains.clone()
    for _ in range(1000):
        x, handle = buffer.draw(256, like=buffer.chains, generator=stream)
        state, _ = run(moves, x, steps=1, generator=stream)
        buffer.commit(handle, state.x)
    now = torch.cdist(buffer.chains, energy.means).argmin(1)
    shares = torch.bincount(now, minlength=8) / 4096
    # 4,096 independent draws have a standard error of .005; modes are 10 standard deviations apart, so few cross.
    assert float((shares - 0.125).abs().max()) < 0.02
    assert float((now == mode).double().mean()) > 0.98
    assert int(buffer.facts()["lineages"]) == 4096
    # The chains did move, inside their modes: correlation with where they were is lost.
    inside, old = (buffer.chains - energy.means[mode])[:, 0], (before - energy.means[mode])[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([inside, old]))[0, 1])) < 0.5
    # The nearest-mean residual has variance 0.09 up to Langevin's bias of η / 2v = 6 % and few crossings.
    residual = (buffer.chains - energy.means[now]).square()
    assert 0.08 < float(residual.mean()) < 0.11


@pytest.mark.parametrize("refresh", [0.0, 0.05, 0.5, 1.0])
def test_a_drawn_chain_is_refreshed_with_its_probability(refresh):
    buffer, stream = filled(300, offset=10, refresh=refresh), cases.generator(3)
    lineage, age, born = buffer.lineage.clone(), buffer.age.clone(), 300
    refreshed, drawn = 0, 0
    for _ in range(100):
        chains = buffer.chains.clone()
        x, (index, fresh) = buffer.draw(64, like=buffer.chains, generator=stream)
        # Fresh ones are noise on [-1, 1], the others where they were, beyond 10.
        assert torch.equal(x.abs().amax(1) <= 1, fresh)
        assert torch.equal(x[~fresh], chains[index[~fresh]])
        assert x[fresh].unique(dim=0).shape[0] == int(fresh.sum())
        buffer.commit((index, fresh), torch.where(fresh[:, None], x + 20, x))
        count = int(fresh.sum())
        lineage[index[fresh]] = torch.arange(born, born + count, device=cases.DEVICE)
        age[index] += 1
        age[index[fresh]] = 1
        born, refreshed, drawn = born + count, refreshed + count, drawn + 64
        assert torch.equal(buffer.lineage, lineage)
        assert torch.equal(buffer.age, age)
        assert int(buffer.born) == born
    assert abs(refreshed - drawn * refresh) <= 5 * math.sqrt(drawn * refresh * (1 - refresh))
    facts = buffer.facts()
    assert int(facts["lineages"]) == 300  # a slot holds one lineage, and no two the same
    assert int(facts["age"]) == int(age.median())


def test_fresh_chains_come_from_the_fresh_start():
    data = 100 + cases.normal(16, 2)
    buffer, stream = filled(50, refresh=0.5, fresh=DataInit()), cases.generator()
    x, (_, fresh) = buffer.draw(16, like=data, generator=stream)
    assert 0 < int(fresh.sum()) < 16
    assert torch.equal(x[fresh], data[fresh])
    assert float(x[~fresh].max()) < 50


def test_a_used_buffer_loads_into_an_unused_one_and_back():
    used, stream = ReplayBuffer(32, refresh=0.3).to(cases.DEVICE), cases.generator()
    data = cases.normal(8, 1, 2, 2)
    for _ in range(5):
        x, handle = used.draw(8, like=data, generator=stream)
        used.commit(handle, x + 1)
    kept = {key: value.clone() for key, value in used.state_dict().items()}
    other = MixtureInit(DataInit(), ReplayBuffer(32, refresh=0.3)).to(cases.DEVICE)
    other.second.load_state_dict(kept)
    place = stream.get_state()
    twin = cases.generator()
    twin.set_state(place)
    for _ in range(5):
        (x, handle), (y, other_handle) = (
            used.draw(8, like=data, generator=stream),
            other.second.draw(8, like=data, generator=twin),
        )
        assert torch.equal(x, y)
        used.commit(handle, x + 1)
        other.second.commit(other_handle, y + 1)
    assert other.second.chains.dtype == torch.float64
    for key, value in used.state_dict().items():
        assert torch.equal(value, other.second.state_dict()[key]), key
    # An unused state empties a used buffer: the next draw refills it.
    used.load_state_dict(ReplayBuffer(32).state_dict())
    assert used.chains.numel() == 0
    assert torch.equal(used.lineage.cpu(), torch.arange(32))
    x, _ = used.draw(8, like=data, generator=cases.generator())
    assert float(x.abs().max()) <= 1
    assert len(used.chains) == 32


def test_facts_tell_the_median_age_and_the_distinct_lineages():
    buffer = filled(5)
    buffer.age.copy_(torch.tensor([0, 1, 7, 9, 9]))
    buffer.lineage.copy_(torch.tensor([1, 4, 0, 1, 4]))
    facts = {key: int(value) for key, value in buffer.facts().items()}
    assert facts == {"age": 7, "lineages": 3}
    assert all(each.device == buffer.chains.device for each in buffer.facts().values())


def test_histories_of_nested_buffers_are_refused():
    nested = MixtureInit(NoiseInit(), MixtureInit(ReplayBuffer(3), DataInit()))
    assert int(nested.facts()["lineages"]) == 3
    assert MixtureInit(NoiseInit(), DataInit()).facts() == {}
    assert list(itertools.chain(DataInit().state_dict(), NoiseInit().state_dict())) == []


# --- chains kept as bytes ---------------------------------------------------------------------------------------------

BIN = 4 / 256


def kept(x, *, low=-2.0, high=2.0):
    """A buffer that keeps these chains as bytes."""
    buffer = ReplayBuffer(len(x), refresh=0.0, stored="byte", low=low, high=high)
    _, handle = buffer.draw(len(x), like=x, generator=cases.generator())
    buffer.commit(handle, x)
    return buffer, handle.slot


def test_ten_thousand_colour_images_take_31_megabytes():
    buffer, like = ReplayBuffer(10_000, stored="byte"), torch.zeros(4, 3, 32, 32)
    buffer.draw(4, like=like, generator=cases.generator())
    assert buffer.chains.dtype == torch.uint8
    assert buffer.chains.nbytes == 10_000 * 3_072
    assert sum(each.nbytes for each in buffer.state_dict().values()) <= 31e6


def test_bytes_come_back_from_anywhere_in_their_bin():
    x = 4 * torch.rand(50, 2_000, generator=cases.generator(1), dtype=torch.float64, device=cases.DEVICE) - 2
    buffer, slot = kept(x)
    y = buffer.positions(slot, generator=cases.generator(2))
    error = (y - x).flatten()
    assert y.dtype == torch.float32
    assert float(error.abs().max()) <= BIN
    assert abs(cases.z_score(error)) < 5
    # Both are uniform in one bin and independent: a variance of 2 / 12; and the law keeps its own, 16 / 12.
    assert abs(cases.z_score(error.square(), BIN**2 / 6)) < 5
    assert abs(cases.z_score(y.flatten().square(), 4**2 / 12)) < 5
    inside = ((y + 2) / BIN) % 1
    assert abs(cases.z_score(inside.flatten(), 0.5)) < 5
    assert abs(cases.z_score((inside.flatten() - 0.5).square(), 1 / 12)) < 5
    assert not torch.equal(y, buffer.positions(slot, generator=cases.generator(3)))


def test_noise_of_another_stream_does_not_favour_a_side():
    # One value, off the middle of its bin: what comes back is right on average over the bin, whatever the value.
    buffer, slot = kept(torch.full((1, 20_000), 0.5 + 0.2 * BIN, device=cases.DEVICE))
    y = buffer.positions(slot, generator=cases.generator(4))
    assert abs(cases.z_score(y.flatten(), 0.5 + 0.5 * BIN)) < 5


def test_what_is_beyond_the_range_stays_at_its_end():
    ends = [-1e30, -math.inf, -2.001, -2.0, 1.9999, 2.0, 2.001, 3.99, 4.0, 6.1, 255.0, 257.0, math.inf, 1e30]
    buffer, slot = kept(torch.tensor(ends, device=cases.DEVICE).reshape(1, -1))
    assert buffer.chains[slot].flatten().tolist() == [0] * 4 + [255] * 10
    y = buffer.positions(slot, generator=cases.generator()).flatten()
    assert bool((y[:4] < -2 + BIN).all() and (y[:4] >= -2).all())
    assert bool((y[4:] >= 2 - BIN).all() and (y[4:] <= 2).all())
    # What is no number has no place of its own.
    assert int(kept(torch.tensor([[math.nan]], device=cases.DEVICE))[0].chains) == 127


def test_other_ranges():
    buffer, slot = kept(torch.tensor([[0.0, 0.49, 0.51, 9.99]], device=cases.DEVICE), low=0.0, high=10.0)
    assert buffer.chains[slot].flatten().tolist() == [0, 12, 13, 255]


def test_chains_that_stand_still_keep_their_bytes():
    x = 2 * cases.normal(64, 100, dtype=torch.float32)
    buffer, stream = kept(x)[0], cases.generator(5)
    before = buffer.chains.clone()
    for _ in range(500):
        y, handle = buffer.draw(64, like=x, generator=stream)
        buffer.commit(handle, y)
    assert torch.equal(buffer.chains, before)
    assert int(buffer.facts()["lineages"]) == 64


def test_a_buffer_of_bytes_is_filled_like_one_of_floats():
    data = cases.normal(300, 3)
    buffer = ReplayBuffer(1_000, fresh=DataInit(), stored="byte", low=-5.0, high=5.0)
    y, (slot, _) = buffer.draw(300, like=data, generator=cases.generator())
    assert buffer.chains.shape == (1_000, 3)
    assert y.dtype == torch.float64
    now = buffer.positions(torch.arange(1_000, device=cases.DEVICE))
    assert float((now - data[torch.arange(1_000) % 300]).abs().max()) <= 10 / 256
    assert len(slot) == 300


def test_langevin_chains_kept_as_bytes_sample_their_target():
    """A thousand visits to the buffer leave the variance of a normal law where the kernel alone has it."""
    step_size, v = 0.1, 0.25
    buffer, stream = ReplayBuffer(512, refresh=0.0, stored="byte", low=-3.0, high=3.0), cases.generator(6)
    kernel = Langevin(lambda x: x.square().sum(1) / (2 * v), step_size=step_size)
    like = torch.zeros(512, 8, device=cases.DEVICE)
    for _ in range(60):
        x, handle = buffer.draw(512, like=like, generator=stream)
        state, _ = run(kernel, x, steps=1, generator=stream)
        buffer.commit(handle, state.x)
    y = buffer.positions(torch.arange(512, device=cases.DEVICE), generator=stream).flatten()
    assert abs(cases.z_score(y)) < 5
    assert abs(cases.z_score(y.square(), v / (1 - step_size / (2 * v)))) < 5


def test_lost_chains_of_bytes_are_restarted():
    x = torch.zeros(600, 2, device=cases.DEVICE)
    x[::3] = 1.9
    buffer, slot = kept(x)
    assert buffer.restart_diverged(lambda y: (y > 1.5).any(1), generator=cases.generator()) == 200
    y = buffer.positions(slot, generator=cases.generator())
    assert float(y.max()) <= 1 + BIN
    still = torch.arange(600) % 3 != 0
    assert float(y[still].abs().max()) <= BIN
    assert int(buffer.born) == 800
