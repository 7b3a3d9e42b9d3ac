"""A PyTorch network on handwritten digits, before and after: what changes is the import.

python examples/torch_digits.py [steps]        (needs torch and scikit-learn)
"""

import sys
import time

import torch

from kitae.data import digits, train_test_split

steps = int(sys.argv[1]) if sys.argv[1:] else 300
data = digits()
arrays = train_test_split(data.images.reshape(-1, 64).astype("float32") / 16, data.labels)
x_train, t_train, x_test, t_test = (torch.from_numpy(array) for array in arrays)


def imported(when):
    if when == "before":
        from torch.nn import BatchNorm1d
        from torch.nn.utils import clip_grad_norm_
        from torch.optim import AdamW
    else:
        from kitae.torch import AdamW, BatchNorm1d, clip_grad_norm_
    return AdamW, BatchNorm1d, clip_grad_norm_


def train(when, dtype):
    """The losses; the time, and the share of the test images that are right."""
    AdamW, BatchNorm1d, clip_grad_norm_ = imported(when)
    torch.manual_seed(0)
    layers = []
    for inputs in (64, *[100] * 7):
        layers += [torch.nn.Linear(inputs, 100), BatchNorm1d(100), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(100, 10)).to(dtype)
    optimizer = AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    losses, start = [], time.perf_counter()
    for _ in range(steps):
        batch = torch.randint(len(x_train), (100,))
        loss = torch.nn.functional.cross_entropy(network(x_train[batch].to(dtype)), t_train[batch].long())
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        right = network.eval()(x_test.to(dtype)).argmax(dim=1) == t_test
    return torch.tensor(losses, dtype=torch.float64), seconds, right.double().mean().item()


for dtype in (torch.float32, torch.float64):
    results = {when: train(when, dtype) for when in ("before", "after")}
    for when, (_, seconds, accuracy) in results.items():
        print(f"{when:>6}: {steps} steps in {seconds:.2f} s, {accuracy:.1%} of the test images right ({dtype})")
    difference = (results["before"][0] - results["after"][0]).abs().max().item()
    print(f"largest difference of a loss: {difference:.1e}")
