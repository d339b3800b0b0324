"""The exact posterior of the simulated data, against dense and enumerated references."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from scipy.linalg import expm

from data.simulation.bounds import told
from data.simulation.draws import generator, matern, ornstein_uhlenbeck
from data.simulation.kalman import smooth
from data.simulation.markov import chain_posterior
from data.simulation.optimum import clipped_gaussian_mean, posteriors
from data.simulation.presets import (
    AU_RATES,
    EXPRESSION_SHARES,
    LABEL_MEAN,
    LABEL_STD,
    PRESETS,
    Preset,
)
from data.simulation.processes import SIMULATED, Video, simulate
from data.simulation.sensors import Sensor, code_slices, make_sensor
from emojax.specs import STREAMS

# Two visual streams (same nuisances, other gain and delay), one audio, one pose; low rates
# keep the dense references small.
SLOW = ("fan", "raf_db", "deepspectrum", "openpose")


def sensors_of(
    names: tuple[str, ...], tasks: tuple[str, ...], preset: Preset, seed: int = 0
) -> tuple[Sensor, ...]:
    cues = preset.cues(len({STREAMS[n].modality for n in names}))
    return tuple(
        make_sensor(STREAMS[n], tasks, generator(seed, n), cues=cues, marks=preset.marks)
        for n in names
    )


def columns_of(preset: Preset, sensors: tuple[Sensor, ...], task: str) -> slice:
    """Returns the columns of the code that show a single simulated task."""
    cues = preset.cues(len({sensor.spec.modality for sensor in sensors}))
    return code_slices((task,), cues=cues, marks=preset.marks)[task]


def some_videos(
    preset: Preset, tasks: tuple[str, ...], count: int, seconds: tuple[float, float], seed: int = 0
) -> tuple[tuple[Sensor, ...], list[Video]]:
    sensors = sensors_of(("ir50", "vggish", "bert"), tasks, preset, seed)
    videos = [simulate(seed, preset, sensors, tasks, "train", i, seconds) for i in range(count)]
    return sensors, videos


def short_videos(preset: Preset, task: str) -> tuple[tuple[Sensor, ...], list[Video]]:
    """Returns two videos of unlike length with invalid rows, irregular clocks and delays."""
    sensors = sensors_of(SLOW, (task,), preset)
    videos = [
        simulate(3, preset, sensors, (task,), "train", index, seconds)
        for index, seconds in ((0, (3.0, 3.5)), (1, (1.0, 1.5)))
    ]
    for video in videos:
        video.rows["fan"].valid_N[2:5] = False
        video.rows["openpose"].valid_N[:] = False
    return sensors, videos


def seen_rows(
    video: Video, sensors: tuple[Sensor, ...]
) -> list[tuple[float, Sensor, bool, np.ndarray]]:
    """Returns (instant described, sensor, reliable, code) of every valid row."""
    return [
        (described, sensor, bool(reliable), code_Q)
        for sensor in sensors
        for described, valid, reliable, code_Q in zip(
            *(getattr(video.rows[sensor.spec.name], f) for f in ("described_N", "valid_N")),
            video.rows[sensor.spec.name].reliable_N,
            video.rows[sensor.spec.name].code_NQ,
            strict=True,
        )
        if valid
    ]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_smoother_is_the_dense_conditional_mean(preset: Preset) -> None:
    sensors, videos = short_videos(preset, "va")
    for video, optimum in zip(videos, posteriors(videos, preset, sensors, ("va",)), strict=True):
        rows = seen_rows(video, sensors)
        t_E = np.array([row[0] for row in rows])
        gain_E = preset.va_gain * np.array([row[1].gain for row in rows])
        modality_E = np.array([row[1].spec.modality for row in rows])
        low_E = np.array([not row[2] for row in rows], float)
        z_E2 = np.stack([row[3][columns_of(preset, sensors, "va")] for row in rows])

        def signal(dt: np.ndarray) -> np.ndarray:
            u = preset.signal_rate * np.abs(dt)
            return (1 + u) * np.exp(-u)

        dt_EE = t_E[:, None] - t_E[None]
        same_EE = modality_E[:, None] == modality_E[None]
        nuisance_EE = same_EE * np.exp(-np.abs(dt_EE) / preset.nuisance_tau)
        size_EE = np.full_like(dt_EE, preset.rho**2)
        shown_EE, truth_E = np.ones_like(dt_EE), np.ones_like(t_E)
        if preset.decoy:  # rows that show the truth tell nothing about the decoy
            shown_EE, truth_E = low_E[:, None] == low_E[None], 1 - low_E
        else:
            size_EE += preset.rho_unreliable**2 * np.outer(low_E, low_E)
        cov_EE = np.outer(gain_E, gain_E) * (shown_EE * signal(dt_EE) + size_EE * nuisance_EE)
        cov_EE += preset.white**2 * np.eye(t_E.size)
        cross_NE = signal(video.pts_N[:, None] - t_E[None]) * gain_E * truth_E
        mean_N2 = cross_NE @ np.linalg.solve(cov_EE, z_E2)
        variance_N = 1 - np.sum(cross_NE * np.linalg.solve(cov_EE, cross_NE.T).T, axis=1)
        expected_N2 = clipped_gaussian_mean(
            np.array(LABEL_MEAN) + LABEL_STD * mean_N2, LABEL_STD * np.sqrt(variance_N)[:, None]
        )
        np.testing.assert_allclose(optimum["va"], expected_N2, rtol=0, atol=1e-8)


def test_smoother_gives_the_prior_where_nothing_is_seen() -> None:
    mean, variance = smooth(
        np.full((512, 1), 0.1), np.zeros((512, 4, 1)), np.zeros((512, 2, 1)),
        signal_rate=0.5, nuisance_tau=2.0, noise_variance=0.01,
    )  # fmt: skip
    assert mean.dtype == variance.dtype == np.float64
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_allclose(variance, 1.0, atol=1e-12)


def test_forward_backward_is_the_sum_over_all_paths() -> None:
    rng = np.random.default_rng(0)
    events, classes, nuisances, lanes = 5, 2, 2, 3
    share_KL = rng.dirichlet(np.ones(classes), lanes).T
    share_J = np.array([0.7, 0.3])
    dt_EL = np.zeros((512, lanes))
    dt_EL[1:events] = rng.uniform(0, 2, (events - 1, lanes))
    modality_EL = np.full((512, lanes), -1)
    modality_EL[:events] = rng.integers(-1, 2, (events, lanes))
    likelihood = np.ones((512, classes, nuisances, lanes))
    seen = rng.uniform(0.01, 1, (events, classes, nuisances, lanes))
    likelihood[:events] = np.where(modality_EL[:events, None, None] >= 0, seen, 1.0)
    result = chain_posterior(
        dt_EL, modality_EL, likelihood, share_KL, np.repeat(share_J[:, None], lanes, axis=1),
        num_modalities=2, state_tau=1.5, nuisance_tau=0.8,
    )  # fmt: skip

    states = list(itertools.product(range(classes), range(nuisances), range(nuisances)))

    def move(tau: float, dt: float, share: np.ndarray, old: int, new: int) -> float:
        stay = np.exp(-dt / tau)
        return stay * (old == new) + (1 - stay) * share[new]

    for lane in range(lanes):
        expected = np.zeros((events, classes))
        share_K = share_KL[:, lane]
        for path in itertools.product(states, repeat=events):
            k, a, b = path[0]
            weight = share_K[k] * share_J[a] * share_J[b]
            for e, state in enumerate(path):
                if e:
                    dt, old = dt_EL[e, lane], path[e - 1]
                    weight *= move(1.5, dt, share_K, old[0], state[0])
                    weight *= move(0.8, dt, share_J, old[1], state[1])
                    weight *= move(0.8, dt, share_J, old[2], state[2])
                if modality_EL[e, lane] >= 0:
                    j = state[1 + modality_EL[e, lane]]
                    weight *= likelihood[e, state[0], j, lane]
            for e, state in enumerate(path):
                expected[e, state[0]] += weight
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(result[:events, :, lane], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
@pytest.mark.parametrize("task", ["expr", "au"])
def test_chain_posterior_is_that_of_the_dense_joint_chain(preset: Preset, task: str) -> None:
    sensors, videos = short_videos(preset, task)
    modalities = sorted({sensor.spec.modality for sensor in sensors})
    unit = 4  # of the action units, as an example
    share_K = (
        EXPRESSION_SHARES if task == "expr" else np.array([1 - AU_RATES[unit], AU_RATES[unit]])
    )
    share_J = preset.expr_nuisance() if task == "expr" else preset.au_nuisance()
    chains, chain_tau = len(modalities), preset.confusion_tau
    if preset.decoy:  # a single chain, of the same law as the truth, which all modalities share
        share_J, chains, chain_tau = share_K, 1, preset.state_tau

    def redraws(share: np.ndarray, tau: float) -> np.ndarray:
        return (np.tile(share, (share.size, 1)) - np.eye(share.size)) / tau

    sizes = [share_K.size] + [share_J.size] * chains
    rates = [redraws(share_K, preset.state_tau)]
    rates += [redraws(share_J, chain_tau)] * chains
    generator_SS = np.zeros((np.prod(sizes), np.prod(sizes)))
    for axis, rate in enumerate(rates):
        before, after = int(np.prod(sizes[:axis])), int(np.prod(sizes[axis + 1 :]))
        generator_SS += np.kron(np.kron(np.eye(before), rate), np.eye(after))
    prior_S = share_K
    for _ in range(chains):
        prior_S = np.kron(prior_S, share_J)
    state_S = list(itertools.product(*(range(size) for size in sizes)))

    def likelihood_of(sensor: Sensor, reliable: bool, code_Q: np.ndarray) -> np.ndarray:
        axis = 1 + modalities.index(sensor.spec.modality)
        z_Q = code_Q[columns_of(preset, sensors, task)]
        if preset.decoy:
            state = [s[0] if reliable else s[1] for s in state_S]
            if task == "expr":
                error_S = ((z_Q - sensor.gain * preset.expr_points()[state]) ** 2).sum(axis=1)
            else:
                points_S = preset.au_gain * (2 * np.array(state) - 1)
                error_S = (z_Q[unit] - sensor.gain * points_S) ** 2
        elif task == "expr":
            shown = preset.expr_shown(sensor.spec.modality)[int(reliable)]
            target = [preset.expr_points()[shown[s[0], s[axis]]] for s in state_S]
            error_S = ((z_Q - sensor.gain * np.array(target)) ** 2).sum(axis=1)
        else:
            target = [preset.au_shown()[int(reliable), s[0], s[axis]] for s in state_S]
            error_S = (z_Q[unit] - sensor.gain * np.array(target)) ** 2
        log_S = -0.5 * error_S / preset.code_variance(task)
        return np.exp(log_S - log_S.max())

    video = videos[1]
    optimum = posteriors(videos, preset, sensors, (task,))[1][task]
    events = [(t, likelihood_of(*row)) for t, *row in seen_rows(video, sensors)]
    events += [(t, None) for t in video.pts_N]
    events.sort(key=lambda event: event[0])
    moves = [expm(generator_SS * dt) for dt in np.diff([e[0] for e in events])]
    forward = [prior_S if events[0][1] is None else prior_S * events[0][1]]
    for (_, seen_S), move_SS in zip(events[1:], moves, strict=True):
        alpha_S = (forward[-1] @ move_SS) * (1.0 if seen_S is None else seen_S)
        forward.append(alpha_S / alpha_S.sum())
    beta_S, posterior = np.ones_like(prior_S), []
    for e in reversed(range(len(events))):
        if events[e][1] is None:
            joint = (forward[e] * beta_S).reshape(share_K.size, -1).sum(axis=1)
            posterior.append(joint / joint.sum())
        else:
            beta_S = beta_S * events[e][1]
        if e:
            beta_S = moves[e - 1] @ beta_S
            beta_S = beta_S / beta_S.sum()
    expected_NK = np.array(posterior[::-1])
    found = optimum if task == "expr" else optimum[:, unit]
    np.testing.assert_allclose(
        found, expected_NK if task == "expr" else expected_NK[:, 1], rtol=0, atol=1e-8
    )


def test_clipped_gaussian_mean_is_the_integral() -> None:
    grid = np.linspace(-12.0, 12.0, 200_001)
    for mean, std in ((0.1, 0.3), (0.9, 0.2), (-1.4, 0.5), (3.0, 1.0)):
        density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
        expected = np.sum(np.clip(mean + std * grid, -1, 1) * density) * (grid[1] - grid[0])
        found = clipped_gaussian_mean(np.array(mean), np.array(std))
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert clipped_gaussian_mean(np.array(0.25), np.array(1e-150)) == pytest.approx(0.25)


def test_processes_have_the_stated_covariance() -> None:
    # Long gaps included: the sums are decayed in stretches.
    time_E = np.array([0.0, 0.0, 0.01, 0.5, 0.55, 3.0, 700.0, 701.0, 5000.0])
    lag_EE = np.abs(time_E[:, None] - time_E[None])
    count = 40_000
    for draw, kernel in (
        (ornstein_uhlenbeck(generator(0, "ou"), time_E, 2.0, count), np.exp(-lag_EE / 2.0)),
        (
            matern(generator(0, "matern"), time_E, 0.55, count),
            (1 + 0.55 * lag_EE) * np.exp(-0.55 * lag_EE),
        ),
    ):
        found_EE = draw.T @ draw / count
        np.testing.assert_allclose(found_EE, kernel, atol=5 / np.sqrt(count))
        np.testing.assert_allclose(draw[:, 0], draw[:, 1])  # one instant, one value


def test_float64_does_not_leak() -> None:
    sensors, videos = short_videos(PRESETS["plain"], "va")
    posteriors(videos, PRESETS["plain"], sensors, ("va",))
    assert not jax.config.jax_enable_x64
    assert jax.numpy.ones(1).dtype == np.float32


def test_batching_changes_nothing() -> None:
    tasks = SIMULATED
    preset = PRESETS["switching"]
    sensors, videos = some_videos(preset, tasks, 3, (2.0, 8.0))
    together = posteriors(videos, preset, sensors, tasks, batch=4)
    for video, values in zip(videos, together, strict=True):
        alone = posteriors([video], preset, sensors, tasks, batch=4)[0]
        for task in tasks:
            np.testing.assert_allclose(values[task], alone[task], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def solved() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns task -> (truth, optimum) of about 40,000 frames."""
    tasks = SIMULATED
    sensors, videos = some_videos(PRESETS["switching"], tasks, 32, (30.0, 60.0))
    optimum = posteriors(videos, PRESETS["switching"], sensors, tasks)
    return {
        task: (
            np.concatenate([video.truth[task] for video in videos]).astype(float),
            np.concatenate([values[task] for values in optimum]),
        )
        for task in tasks
    }


@pytest.mark.nightly
def test_optimum_is_calibrated(solved: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    truth, mean = solved["va"]
    for d in range(2):
        slope, shift = np.polyfit(mean[:, d], truth[:, d], 1)
        assert slope == pytest.approx(1.0, abs=0.08)
        assert shift == pytest.approx(0.0, abs=0.03)
    one_hot = np.eye(8)[solved["expr"][0][:, 0].astype(int)]
    for hits, probability in ((one_hot, solved["expr"][1]), solved["au"]):
        # Frames of one video go together, so a bin of few frames is worth little.
        bin_of = np.minimum((probability * 10).astype(int), 9)
        gap = sum(abs((hits - probability)[bin_of == b].sum()) for b in range(10)) / hits.size
        assert gap < 0.015


@pytest.mark.slow
def test_no_perturbed_predictor_beats_the_optimum(
    solved: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    # Posterior means minimise the squared error of labels, one-hot classes and units.
    rng = np.random.default_rng(0)
    for task, (truth, optimum) in solved.items():
        target = np.eye(8)[truth[:, 0].astype(int)] if task == "expr" else truth
        best = np.mean((optimum - target) ** 2)
        centre = optimum.mean(axis=0)
        rivals = {
            "earlier": np.roll(optimum, -12, axis=0),
            "later": np.roll(optimum, 12, axis=0),
            "bolder": centre + 1.25 * (optimum - centre),
            "shyer": centre + 0.75 * (optimum - centre),
            "noisy": optimum + 0.05 * rng.standard_normal(optimum.shape),
            "smoothed": sum(np.roll(optimum, k, axis=0) for k in range(-20, 21)) / 41,
            "constant": np.broadcast_to(target.mean(axis=0), target.shape),
        }
        for name, rival in rivals.items():
            assert np.mean((rival - target) ** 2) > best, f"{task}: {name}"


@pytest.mark.slow
def test_more_rows_never_hurt_on_average() -> None:
    preset, errors = PRESETS["plain"], []
    sensors, videos = some_videos(preset, ("va",), 16, (20.0, 40.0))
    for kept in (1, 2, 3):
        optimum = posteriors(videos, preset, sensors[:kept], ("va",))
        errors.append(
            np.mean(
                [
                    np.mean((o["va"] - v.truth["va"]) ** 2)
                    for o, v in zip(optimum, videos, strict=True)
                ]
            )
        )
    assert errors[0] > errors[1] > errors[2]


def crossed_videos(count: int = 12) -> tuple[Preset, tuple[Sensor, ...], list[Video]]:
    preset = PRESETS["cross_cued"]
    sensors = sensors_of(("ir50", "vggish", "bert"), ("va",), preset)
    videos = [simulate(0, preset, sensors, ("va",), "train", i, (20.0, 25.0)) for i in range(count)]
    return preset, sensors, videos


def test_the_optimum_of_crossed_cues_is_bounded_on_both_sides() -> None:
    preset, sensors, videos = crossed_videos()

    def correlation(seen: list[Video]) -> float:
        found = posteriors(seen, preset, sensors, ("va",))
        p_N2 = np.concatenate([one["va"] for one in found])
        y_N2 = np.concatenate([video.truth["va"] for video in videos])
        return float(np.mean([np.corrcoef(p_N2[:, d], y_N2[:, d])[0, 1] for d in (0, 1)]))

    upper = correlation(videos)
    lower = correlation([told(video, preset, sensors, ("va",)) for video in videos])
    assert 0.9 < lower <= upper + 0.005 < 1.0
    assert upper - lower < 0.04

    # Without the marks nobody knows the lags, and without the cues nobody knows whom to trust.
    guessed = []
    for video in videos:
        halves = {
            name: dataclasses.replace(rows, reliable_N=np.ones_like(rows.reliable_N))
            for name, rows in video.rows.items()
        }
        guessed.append(dataclasses.replace(video, rows=halves))
    assert correlation(guessed) < 0.8 * upper


def test_lags_and_reliabilities_are_told_by_the_features() -> None:
    preset, sensors, videos = crossed_videos(4)
    for video in videos:
        seen = told(video, preset, sensors, ("va",))
        for name, rows in video.rows.items():
            found = seen.rows[name]
            assert np.abs(found.described_N - rows.described_N).max() < 0.03
            kept_N = found.valid_N
            assert kept_N.mean() > 0.7
            wrong_N = found.reliable_N[kept_N] != rows.reliable_N[kept_N]
            assert wrong_N.mean() < 0.01


def test_a_stream_does_not_tell_its_own_reliability() -> None:
    """Truth and decoy have the same law, so that the code of one stream looks alike under both."""
    preset, sensors, videos = crossed_videos(60)
    columns = columns_of(preset, sensors, "va")
    for name in ("ir50", "vggish", "bert"):
        codes = {True: [], False: []}
        for video in videos:
            rows = video.rows[name]
            for reliable in codes:
                codes[reliable].append(rows.code_NQ[rows.reliable_N == reliable])
        trusted_NQ, wrong_NQ = (np.concatenate(codes[r]) for r in (True, False))
        cues = slice(0, columns.start)
        own = sorted(s.spec.modality for s in sensors).index(STREAMS[name].modality)
        assert np.abs(trusted_NQ[:, cues][:, own]).max() < 6 * preset.white  # noise, no cue
        spread = trusted_NQ[:, columns].std(axis=0) / wrong_NQ[:, columns].std(axis=0)
        np.testing.assert_allclose(spread, 1.0, atol=0.1)
        others = [c for c in range(cues.stop) if c != own]
        assert np.abs(trusted_NQ[:, others]).min() > 0.5 * preset.cue  # those of the others
