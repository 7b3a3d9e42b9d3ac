"""A language model as book 2's, with dropout, shared weights and clipping: python rnnlm.py OPTIMIZER CLIP."""

import sys

sys.path.append("..")
from common.optimizer import *
from common.time_layers import *
from common.util import clip_grads

np.random.seed(5)
V, D, H, N, T = 40, 12, 12, 6, 7
corpus = np.random.randint(0, V, 2000)


def weights(*shape):
    return (np.random.randn(*shape) / np.sqrt(shape[0])).astype("f")


embed_W = weights(V, D)
layers = [
    TimeEmbedding(embed_W),
    TimeDropout(0.3),
    TimeLSTM(weights(D, 4 * H), weights(H, 4 * H), np.zeros(4 * H, "f"), stateful=True),
    TimeRNN(weights(H, H), weights(H, H), np.zeros(H, "f")),
    TimeAffine(embed_W.T, np.zeros(V, "f")),
]
loss_layer = TimeSoftmaxWithLoss()
optimizer = vars()[sys.argv[1]](lr=0.05 if sys.argv[1] == "SGD" else 0.005)
for step in range(100):
    starts = np.random.choice(1900, N)
    xs = np.stack([corpus[s : s + T] for s in starts])
    ts = np.stack([corpus[s + 1 : s + T + 1] for s in starts])
    out = xs
    for layer in layers:
        out = layer.forward(out)
    print("loss", repr(float(loss_layer.forward(out, ts))))
    dout = loss_layer.backward()
    for layer in reversed(layers):
        dout = layer.backward(dout)
    params = [p for layer in layers for p in layer.params]
    grads = [g for layer in layers for g in layer.grads]
    tied = [i for i, p in enumerate(params) if p.shape == (D, V)][0]
    grads[0] += grads[tied].T
    del params[tied], grads[tied]
    clip_grads(grads, float(sys.argv[2]))
    optimizer.update(params, grads)
