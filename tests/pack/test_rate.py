"""The rate: code lengths as a float64 loop has them, gradients as of uniform noise, near what the coder takes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.pack.code_length import Places, activity, code_length


def log_activity(codes: np.ndarray) -> np.ndarray:
    size, found = np.abs(codes).astype(np.float64), np.zeros(codes.shape)
    for index in np.ndindex(codes.shape):
        for axis in (-1, -2):
            channel = np.take(size, index[axis], axis)
            found[index] += math.log((channel.sum() / size.mean() + 4) / (channel.size + 4))
    return found


def length(code: float, active: float, model: np.ndarray) -> float:
    """-log2 of the probability of a code, by its definition: is it 0, which sign, and does it end at each step."""
    a, b, c, d = map(float, model)
    further = 1 / (1 + math.exp(-c - d * active))
    nonzero = min(1 / (1 + math.exp(-a - b * active)), 1 / (2 - further))  # there 0 is as likely as 1 and -1
    if code == 0:
        return -math.log2(1 - nonzero)
    return -math.log2(nonzero * 0.5 * (1 - further) * further ** (abs(code) - 1))


MODEL = np.array([-0.7, 0.8, -0.4, 0.3])


@pytest.mark.parametrize("shape", [(9, 5), (3, 2, 4, 3)])
def test_lengths_are_those_of_the_definition(rng, shape):
    codes = np.round(rng.normal(size=shape) * 1.5 * rng.random(shape[-1]))
    active = log_activity(codes)
    found = np.broadcast_to(activity(jnp.asarray(codes, jnp.float32)), shape)
    np.testing.assert_allclose(found, active, atol=1e-5)
    given = jnp.asarray(codes, jnp.float32)
    for model in (MODEL, np.array([3, *MODEL[1:]])):  # beyond, 0 would be rarer than 1
        expected = sum(length(codes[i], active[i], model) for i in np.ndindex(shape))
        assert float(code_length(Places(given, given), jnp.asarray(model, jnp.float32))) == pytest.approx(
            expected, 1e-5
        )


def test_probabilities_of_all_codes_sum_to_one():
    for model in (MODEL, np.array([9, *MODEL[1:]])):
        shares = [2.0 ** -length(code, 0.3, model) for code in range(81)]
        assert shares[0] + 2 * sum(shares[1:]) == pytest.approx(1)
        assert shares[0] >= 2 * shares[1] * (1 - 1e-9)


def test_gradients_are_those_of_the_mean_over_uniform_noise(rng):
    params = {"w": jnp.asarray(rng.normal(size=(12, 6)), jnp.float32)}
    recipe = jc.pack.rated(jc.quant.fake(3))
    state = recipe.init(params)
    scale = float(state.view["w"].scale.item())
    slopes = np.asarray(jax.grad(lambda p: jc.pack.rate(recipe, p, state))(params)["w"])
    w, active = np.asarray(params["w"], np.float64), log_activity(np.round(np.asarray(params["w"]) / scale))
    model = np.asarray(state.model["w"].value)

    def noisy(y: float, r: float) -> float:
        """The mean length of round(y + u), u uniform of width 1: y falls on either side."""
        low = math.floor(y)
        return (low + 1 - y) * length(low, r, model) + (y - low) * length(low + 1, r, model)

    checked = 0
    for i in np.ndindex(w.shape):
        y = w[i] / scale
        if abs(y) < 2.99 and abs(y - round(y)) > 1e-3:
            slope = (noisy(y + 1e-5, active[i]) - noisy(y - 1e-5, active[i])) / 2e-5 / scale
            assert slopes[i] == pytest.approx(slope, rel=1e-3, abs=1e-3)
            checked += 1
    assert checked > 60


def test_codebooks_are_rated_by_the_places_of_centers(rng):
    w = rng.choice(np.float32([-3.0, -1.0, 0.0, 0.5, 4.0]), size=(40, 8), p=[0.1, 0.1, 0.6, 0.1, 0.1])
    recipe = jc.pack.rated(jc.share.cluster(5))
    state = recipe.init({"w": w})
    places = np.searchsorted([-3.0, -1.0, 0.0, 0.5, 4.0], w) - 2.0
    model = np.asarray(state.model["w"].value)
    expected = sum(length(places[i], r, model) for i, r in np.ndenumerate(log_activity(places)))
    assert float(jc.pack.rate(recipe, {"w": w}, state)) == pytest.approx(expected, 1e-4)
    slope = jax.grad(lambda p: jc.pack.rate(recipe, p, state))({"w": jnp.asarray(w) + 0.1})["w"]
    assert slope[(w >= 0) & (w < 4)].min() > 0


@pytest.mark.parametrize("channels", [False, True])
def test_a_learned_model_comes_near_what_the_coder_takes(rng, tmp_path, channels):
    pytest.importorskip("constriction")
    width = np.where(rng.random(64) < 0.4, 0.02, 1.0) if channels else np.full(64, 0.4)
    codes = np.round(rng.laplace(size=(10, 30, 64)) * width).clip(-3, 3).astype(np.float32) + 0.0  # no -0.0
    recipe = jc.pack.rated(jc.quant.fake(3))
    params = {"w": jnp.asarray(codes)}
    state = recipe.init(params)
    tx = optax.adam(0.05)

    @jax.jit
    def step(values, opt_state):
        bits, slopes = jax.value_and_grad(lambda v: jc.pack.rate(recipe, params, jc.with_learned(state, v)))(values)
        moves, opt_state = tx.update(slopes, opt_state)
        return optax.apply_updates(values, moves), opt_state, bits

    values, opt_state = jc.learned(state), tx.init(jc.learned(state))
    for _ in range(200):
        values, opt_state, bits = step(values, opt_state)
    jc.pack.save(tmp_path / "x.jcz", params, notes=recipe.describe(params, state, 0))
    (told,) = jc.pack.inspect(tmp_path / "x.jcz", measured=True).tensors
    assert told.ideal * 0.9 < float(bits) / 8 < told.ideal * 1.05
    if channels:  # what tells active channels from idle ones is worth a good part
        assert float(bits) / 8 < 0.85 * told.entropy


@pytest.mark.exhaustive
def test_whole_channels_die_and_are_cut(rng):
    """A penalty finds that two of eight hidden channels do, and ``remove_dead`` cuts the others."""
    x = jnp.asarray(rng.normal(size=(256, 6)), jnp.float32)
    y = jax.nn.relu(x[:, :1]) - 2 * jax.nn.relu(x[:, 1:2])

    def net(p, x):
        return jax.nn.relu(x @ p["up"]) @ p["down"]

    params = {"up": rng.normal(size=(6, 8)).astype(np.float32), "down": rng.normal(size=(8, 1)).astype(np.float32)}
    recipe, tx = jc.pack.rated(jc.quant.fake(4)), optax.adam(optax.cosine_decay_schedule(0.02, 1500))
    state = recipe.init(params)
    both = params, jc.learned(state)

    def loss(both, state, strength):
        params, state = both[0], jc.with_learned(state, both[1])
        error = jnp.mean(jnp.square(net(recipe.apply(params, state), x) - y))
        return error + strength * jc.pack.rate(recipe, params, state)

    @jax.jit
    def train(both, state):
        def step(carry, i):
            both, state, opt_state = carry
            moves, opt_state = tx.update(jax.grad(loss)(both, state, jnp.minimum(i / 750, 1) * 3e-2), opt_state)
            both = optax.apply_updates(both, moves)
            state = recipe.update(both[0], jc.with_learned(state, both[1]), i)
            return (both, state, opt_state), None

        return jax.lax.scan(step, (both, state, tx.init(both)), jnp.arange(1500))[0]

    both, state, _ = train(both, state)
    view = recipe.apply(both[0], jc.with_learned(state, both[1]))
    new, small = jc.rewrite.remove_dead(net, view, x)
    assert small["up"].shape[1] <= 4
    assert float(jnp.mean(jnp.square(new(small, x) - y))) < 0.1 * float(jnp.var(y))
    np.testing.assert_allclose(new(small, x), net(view, x), rtol=1e-5, atol=1e-5)


TREE = {"a": np.linspace(-1, 1, 96, dtype=np.float32).reshape(8, 12), "b": np.linspace(-2, 1, 8, dtype=np.float32)}
RECIPE = jc.partition([("a", jc.chain(jc.prune.magnitude(0.5), jc.pack.rated(jc.quant.lsq(3)))),
                       ("b", jc.every(2, jc.pack.rated(jc.share.cluster(3))))])  # fmt: skip


def rate_and_slopes(params, state):
    def bits(both):
        return jc.pack.rate(RECIPE, both[0], jc.with_learned(state, both[1]))

    return jax.value_and_grad(bits)((params, jc.learned(state)))


def assert_alike(found, expected, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.float32(x), np.float32(y), rtol, 1e-4), found, expected)


def test_the_rate_of_a_recipe_is_the_sum_of_its_tensors():
    state = RECIPE.init(TREE)
    found = RECIPE.bits(TREE, state)
    assert found.keys() == {"a", "b"}
    assert float(jc.pack.rate(RECIPE, TREE, state)) == pytest.approx(float(found["a"] + found["b"]))


@pytest.mark.exhaustive
def test_jit_vmap_and_meshes_give_the_same_rate():
    state = RECIPE.init(TREE)
    expected = rate_and_slopes(TREE, state)
    assert_alike(jax.jit(rate_and_slopes)(TREE, state), expected)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), TREE)
    assert_alike(jax.tree.map(lambda x: x[1], jax.vmap(rate_and_slopes, (0, None))(twice, state)), expected)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
        spread = {"a": jax.device_put(TREE["a"], NamedSharding(mesh, PartitionSpec("x", None))),
                  "b": jax.device_put(TREE["b"], NamedSharding(mesh, PartitionSpec("x")))}  # fmt: skip
        assert_alike(jax.jit(lambda params: rate_and_slopes(params, RECIPE.init(params)))(spread), expected)
        with jax.set_mesh(mesh):
            assert_alike(rate_and_slopes(spread, RECIPE.init(spread)), expected)


@pytest.mark.exhaustive
def test_bfloat16_weights_are_rated_in_float32():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), TREE)
    with jax.numpy_dtype_promotion("strict"):
        bits, (slopes, _) = rate_and_slopes(params, RECIPE.init(params))
    assert bits.dtype == jnp.float32
    assert slopes["a"].dtype == jnp.bfloat16
    assert float(bits) == pytest.approx(float(jc.pack.rate(RECIPE, TREE, RECIPE.init(TREE))), 0.05)


@pytest.mark.exhaustive
def test_stacked_layers_have_a_model_each():
    layers = {"w": np.stack([TREE["a"], TREE["a"] ** 3])}
    recipe = jc.stacked(0, jc.pack.rated(jc.quant.fake(4)))
    state = recipe.init(layers)
    alone = jc.pack.rated(jc.quant.fake(4))
    expected = [jc.pack.rate(alone, {"w": w}, alone.init({"w": w})) for w in layers["w"]]
    assert float(jc.pack.rate(recipe, layers, state)) == pytest.approx(float(sum(expected)), 1e-5)


def test_weights_that_begin_as_zeros_cost_next_to_nothing_and_can_leave():
    recipe = jc.pack.rated(jc.quant.lsq(3))
    params = {"w": jnp.zeros((8, 4))}
    state = recipe.init(params)

    def bits_of(both):
        return jc.pack.rate(recipe, both[0], jc.with_learned(state, both[1]))

    bits, (slopes, learned) = jax.value_and_grad(bits_of)((params, jc.learned(state)))
    assert 0 <= float(bits) < 2
    assert not slopes["w"].any()
    assert all(np.isfinite(slope).all() for slope in learned.values())
    moved = {"w": params["w"].at[0].set(0.1)}
    assert np.isfinite(float(jc.pack.rate(recipe, moved, state)))
    assert np.isfinite(float(jc.pack.rate(recipe, moved, recipe.update(moved, state, 1))))


@pytest.mark.parametrize(
    ("make", "params", "match"),
    [
        (lambda: jc.pack.rated(jc.quant.fake(4)), {"n": np.arange(3)}, r"'n': the rate is .* int\d+: leave it out"),
        (lambda: jc.pack.rated(jc.prune.magnitude(0.5)), TREE, "'a': rated needs a compressor whose state is a grid"),
        (lambda: jc.pack.rated(jc.share.cluster(3, scope="global")), TREE, "codebook a tensor"),
        (lambda: jc.pack.rated("lsq"), TREE, "rated: compressor"),
    ],
)
def test_what_cannot_be_rated_is_told(make, params, match):
    with pytest.raises(ArgumentError, match=match):
        make().init(params)


def test_formats_that_are_no_integers_are_told():
    recipe = jc.pack.rated(jc.quant.fake("nf4"))
    with pytest.raises(ArgumentError, match="'a': the rate is of integer codes or codebooks, and nf4 is neither"):
        recipe.describe(TREE, recipe.init(TREE), 0)


def test_a_recipe_without_a_rate_is_told():
    recipe = jc.partition([("a", jc.quant.fake(4))])
    with pytest.raises(ArgumentError, match="nothing in the recipe is rated"):
        jc.pack.rate(recipe, TREE, recipe.init(TREE))
