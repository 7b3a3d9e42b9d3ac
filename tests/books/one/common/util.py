import numpy as np


def smooth_curve(x):
    window = np.kaiser(11, 2)
    return np.convolve(window / window.sum(), x, mode="same")


def im2col(input_data, filter_h, filter_w, stride=1, pad=0):
    N, C, H, W = input_data.shape
    image = np.pad(input_data, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    rows = []
    for n in range(N):
        for top in range(0, H + 2 * pad - filter_h + 1, stride):
            for left in range(0, W + 2 * pad - filter_w + 1, stride):
                rows.append(image[n, :, top : top + filter_h, left : left + filter_w].ravel())
    return np.array(rows, dtype=float)


def col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0):
    N, C, H, W = input_shape
    image = np.zeros((N, C, H + 2 * pad, W + 2 * pad))
    rows = iter(col)
    for n in range(N):
        for top in range(0, H + 2 * pad - filter_h + 1, stride):
            for left in range(0, W + 2 * pad - filter_w + 1, stride):
                part = next(rows).reshape(C, filter_h, filter_w)
                image[n, :, top : top + filter_h, left : left + filter_w] += part
    return image[:, :, pad : pad + H, pad : pad + W]
