"""Recipes: what they may say, what they answer to mistakes."""

import pytest

from energyscape.errors import UserError
from energyscape.objectives import ContrastiveDivergence, DenoisingScoreMatching, ReplayBuffer
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.recipe.recipe import parsed
from energyscape.recipe.settings import Budget, Training

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}  # a recipe whose data may not be at hand


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_builds_and_its_resolved_form_is_a_fixed_point(name):
    recipe = Recipe.named(name)
    experiment = Experiment(recipe, shape=SHAPES.get(recipe.tables["data"]["name"]))
    resolved = experiment.recipe
    again = Recipe(name, parsed(resolved.text(), "resolved"))
    assert again.resolved().tables == resolved.tables
    assert not resolved.differences(again)


def test_overrides_reach_nested_settings_and_are_typed():
    recipe = Recipe.named(
        "8gaussians-pcd", {"objective.start.capacity": "512", "learning_rate": "0.01", "train.seed": "7"}
    )
    experiment = Experiment(recipe)
    assert isinstance(experiment.objective, ContrastiveDivergence)
    assert isinstance(experiment.objective.start, ReplayBuffer)
    assert experiment.objective.start.capacity == 512
    assert experiment.objective.start.refresh == 0.05  # untouched neighbours stay
    assert (experiment.training.learning_rate, experiment.training.seed) == (0.01, 7)


def test_a_new_name_drops_the_old_component_s_settings():
    recipe = Recipe.named("8gaussians-pcd", {"objective.sigma": "0.2", "objective.name": "dsm"})
    assert recipe.tables["objective"] == {"name": "dsm", "sigma": 0.2}
    assert isinstance(Experiment(recipe).objective, DenoisingScoreMatching)


def test_a_solver_drops_the_settings_of_the_chains():
    words = {"sampler.solver.name": "heun", "sampler.grid.name": "karras", "sampler.grid.sigma_max": "40.0"}
    words |= {"model.name": "denoiser", "model.network.name": "mlp", "model.preconditioning.name": "edm"}
    words |= {"model.preconditioning.data_std": "0.5", "objective.name": "denoising"}
    words |= {"objective.levels.name": "log-uniform", "objective.levels.sigma_max": "40.0"}
    words |= {f"{section}.sigma_min": "0.01" for section in ("objective.levels", "sampler.grid")}
    sampler = Recipe.named("digits-pcd", words).resolved().tables["sampler"]
    assert set(sampler) == {"solver", "grid", "steps", "precision"}
    # One solver for another leaves what the recipe says of the rest.
    again = Recipe.named("mnist-edm", {"sampler.solver.name": "euler"}).tables["sampler"]
    assert (again["steps"], again["grid"]["sigma_max"]) == (18, 80.0)


def test_the_same_name_keeps_the_settings():
    recipe = Recipe.named("8gaussians-pcd", {"objective.name": "cd"})
    assert recipe.tables["objective"]["steps"] == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.name": "8gausians"}, "did you mean '8gaussians'"),
        ({"objective.stpes": "3"}, "did you mean 'steps'"),
        ({"objective.kernel.name": "langevn"}, "did you mean 'langevin'"),
        ({"objective.kernel.step_sise": "0.1"}, "did you mean 'step_size'"),
        ({"objective.steps": "many"}, "steps is of type int; it was 'many'"),
        ({"objective.steps": "0"}, "steps is at least 1"),
        ({"objective.kernel.step_size": "-1"}, "step_size is positive"),
        ({"trian.budget": "1k"}, "did you mean 'train'"),
        ({"bugdet": "1k"}, "did you mean 'budget'"),
        ({"train.decay": "cubic"}, "one of none, linear, cosine"),
        ({"train.batch_size": "true"}, "batch_size is of type int"),
        ({"objective.steps.deep": "1"}, "'steps' is not a table"),
        ({"objective.name": "dsm"}, "needs a value for 'sigma'"),
    ],
)
def test_a_mistake_is_one_clear_line(overrides, message):
    with pytest.raises(UserError) as caught:
        Experiment(Recipe.named("8gaussians-pcd", overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["5", "true", '["noise"]', "{}", "{low = 1.0}", "{name = 5}", '{name = ["a"]}', "{name = {a = 1}}"]
)
def test_a_nested_component_of_the_wrong_kind(value):
    for key, family in {
        "objective.start": "start",
        "model.network": "network",
        "objective.start.fresh": "start",
    }.items():
        with pytest.raises(UserError, match=f"is a {family}, a table with a name"):
            Experiment(Recipe.named("8gaussians-pcd", {key: value}))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.beta1", "2"),
        ("train.beta2", "-1"),
        ("train.warmup", "-5"),
        ("train.learning_rate", "inf"),
        ("sampler.kernel.step_size", "-1"),
        ("guard.patience", "-4"),
        ("guard.rollbacks", "-2"),
        ("guard.gradient_factor", "-1"),
    ],
)
def test_a_setting_out_of_its_range_is_told_before_training(setting, value):
    with pytest.raises(UserError, match=f"{setting.split('.')[-1]}.*{value}"):
        Experiment(Recipe.named("8gaussians-pcd", {setting: value}))


def test_unknown_recipe_and_broken_toml(tmp_path):
    with pytest.raises(UserError, match="did you mean '8gaussians-pcd'"):
        Recipe.named("8gausians-pcd")
    (tmp_path / "bad.toml").write_text("[data\nname=")
    with pytest.raises(UserError, match="not valid TOML"):
        Recipe.named(str(tmp_path / "bad.toml"))
    (tmp_path / "stray.toml").write_text("seed = 3\n")
    with pytest.raises(UserError, match="'seed' stands outside the sections"):
        Recipe.named(str(tmp_path / "stray.toml"))
    (tmp_path / "unknown.toml").write_text("[dta]\nname = 'digits'\n")
    with pytest.raises(UserError, match=r"no section \[dta\]; did you mean 'data'"):
        Recipe.named(str(tmp_path / "unknown.toml")).resolved()
    with pytest.raises(UserError, match="there is no such file; expected a recipe"):
        Recipe.named(str(tmp_path / "none.toml"))


def test_budgets():
    assert Budget.parse("400k") == Budget(400_000, None)
    assert Budget.parse(500) == Budget(500, None)
    assert Budget.parse("1.5h") == Budget(None, 5400.0)
    assert Budget.parse("3 epochs", epoch=1_498) == Budget(4_494, None)
    assert Budget.parse("2cpu-min") == Budget(None, 120.0, processor=True)
    assert not Budget.parse("2min").processor
    for bad in ("-1", "0", "", "1 week", "k", "1.2.3s"):
        with pytest.raises(UserError, match="a budget is"):
            Budget.parse(bad)
    with pytest.raises(UserError, match="a law has no epochs"):
        Budget.parse("2 epochs")


def test_learning_rate_rises_then_falls():
    training = Training(warmup=1_000, batch_size=100, decay="linear")
    assert training.rate_factor(0.0, 0) == pytest.approx(0.1)  # the first step already moves
    assert training.rate_factor(0.0, 900) == 1.0
    assert training.rate_factor(0.25, 10_000) == pytest.approx(0.75)
    assert Training(warmup=0, decay="cosine").rate_factor(0.5, 0) == pytest.approx(0.5)
    assert Training(warmup=0, decay="none").rate_factor(0.9, 0) == 1.0
