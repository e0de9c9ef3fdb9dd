"""The losses equal an independent computation in NumPy, and the reference gets no gradient."""

import numpy as np
import pytest
import torch

from training.preference.losses import dpo_losses, implicit_reward, kto_losses

ERRORS = [0.30, 0.21, 0.55, 0.08, 0.40]
REFERENCE = [0.32, 0.20, 0.50, 0.11, 0.40]
DESIRABLE = [True, True, False, False, True]
GOLDEN = {
    # 1 / (1 + exp(w beta (reference - error - Q))) at beta 50 and Q 0.004, to 12 digits
    "kto": [0.310025518872, 0.668187772168, 0.062973356057, 0.785834983043, 0.549833997312],
    # log(1 + exp(-beta ((ref_w - err_w) - (ref_l - err_l)))) of the pairs (0, 2), (1, 3), (4, 2)
    "dpo": [0.029750418273, 2.126928011043, 0.078889734293],
}


def numpy_kto(error, reference, desirable, beta, point):
    reward = reference - error
    sign = np.where(desirable, 1.0, -1.0)
    return 1 / (1 + np.exp(sign * beta * (reward - max(point, 0.0))))


def numpy_dpo(error_w, error_l, reference_w, reference_l, beta):
    inside = -beta * ((error_w - reference_w) - (error_l - reference_l))
    return np.log1p(np.exp(-inside))


def test_kto_losses_equal_numpy_and_the_golden_values():
    error, reference = (torch.tensor(each, dtype=torch.float64) for each in (ERRORS, REFERENCE))
    found = kto_losses(implicit_reward(error, reference), torch.tensor(DESIRABLE), 50.0, 0.004)
    expected = numpy_kto(np.array(ERRORS), np.array(REFERENCE), np.array(DESIRABLE), 50.0, 0.004)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.numpy(), GOLDEN["kto"], rtol=1e-9)


def test_dpo_losses_equal_numpy_and_the_golden_values():
    error, reference = (torch.tensor(each, dtype=torch.float64) for each in (ERRORS, REFERENCE))
    reward, chosen, rejected = implicit_reward(error, reference), [0, 1, 4], [2, 3, 2]
    found = dpo_losses(reward[chosen], reward[rejected], 50.0)
    e, r = np.array(ERRORS), np.array(REFERENCE)
    expected = numpy_dpo(e[chosen], e[rejected], r[chosen], r[rejected], 50.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.numpy(), GOLDEN["dpo"], rtol=1e-9)


@pytest.mark.parametrize("point", [0.0, -0.2])
def test_a_negative_reference_point_counts_as_zero(point):
    reward = torch.tensor([0.01, -0.02])
    labels = torch.tensor([True, False])
    zero = kto_losses(reward, labels, 100.0, 0.0)
    torch.testing.assert_close(kto_losses(reward, labels, 100.0, point), zero)


def test_gradients_lower_errors_of_accepts_and_raise_those_of_rejects():
    error = torch.tensor([0.3, 0.3], requires_grad=True)
    reference = torch.tensor([0.3, 0.3], requires_grad=True)
    point = torch.tensor(0.001, requires_grad=True)
    losses = kto_losses(implicit_reward(error, reference), torch.tensor([True, False]), 10.0, point)
    losses.sum().backward()
    assert error.grad[0] > 0 > error.grad[1]
    assert reference.grad is None
    assert point.grad is None


def test_the_slope_at_the_reference_is_that_by_which_the_stage_divides():
    error = torch.tensor([0.3], requires_grad=True)
    kto_losses(
        implicit_reward(error, torch.tensor([0.3])), torch.tensor([True]), 80.0, 0
    ).backward()
    assert float(error.grad) == pytest.approx(80 / 4)
    error.grad = None
    dpo_losses(implicit_reward(error, torch.tensor([0.3])), torch.zeros(1), 80.0).backward()
    assert float(error.grad) == pytest.approx(80 / 2)


def test_large_rewards_stay_finite():
    reward = torch.tensor([50.0, -50.0], requires_grad=True)
    losses = kto_losses(reward, torch.tensor([True, False]), 5_000.0, 0.0)
    (losses.sum() + dpo_losses(reward, -reward, 5_000.0).sum()).backward()
    assert losses.isfinite().all()
    assert reward.grad.isfinite().all()
