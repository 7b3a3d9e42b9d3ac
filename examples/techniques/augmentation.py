"""From raw digits to a test accuracy: a split that shares nothing, scaling fitted on the training set, variations of
the images in each minibatch.

Few digits to learn from, so variations tell; 3 seeds each. The picture shows what each augmentation does.
"""

import numpy as np
import shared

import kitae
from kitae import nn
from kitae.data import Batches, MinMaxScaler, augment, digits, load, one_hot, train_validation_test_split
from kitae.train import Trainer

SHOWN = {
    "as it is": augment.Compose([]),
    "flip (not for digits)": augment.Flip(probability=1),
    "rotate 20": augment.Rotate(20, probability=1),
    "translate 0.15": augment.Translate(0.15, probability=1),
    "crop 0.7": augment.Crop(0.7, probability=1),
    "zoom 0.7 to 1.4": augment.Zoom(0.7, 1.4, probability=1),
    "gamma 0.5 to 2": augment.Gamma(0.5, 2, probability=1),
    "noise 0.2": augment.GaussianNoise(0.2, probability=1),
    "brightness 0.3": augment.Brightness(0.3, probability=1),
    "contrast 0.4 to 1": augment.Contrast(0.4, 1, probability=1),
    "random erasing": augment.RandomErasing(probability=1),
    "cutout 3": augment.Cutout(3, probability=1),
    "mixup 1": augment.MixUp(1, classes=10),
    "cutmix": augment.CutMix(classes=10),
}

TRAINED = {
    "none": None,
    "rotate": augment.Rotate(10),
    "translate": augment.Translate(0.1),
    "zoom": augment.Zoom(0.9, 1.1),
    "noise": augment.GaussianNoise(0.1),
    "cutout": augment.Cutout(2),
    "mixup": augment.MixUp(0.4),
    "for_digits()": augment.for_digits(),
    "flip (can't occur)": augment.Flip(),
}


def on_rows(augmentation, size):
    """For a network of dense layers: images become rows after they were varied."""

    def vary(x, t, *, rng):
        images, t = augmentation(x.reshape(-1, *size), t, rng=rng)
        return images.reshape(len(x), -1), t

    return None if augmentation is None else vary


def accuracy(split, size, augmentation, seed, epochs):
    kitae.seed(seed)
    scaler = MinMaxScaler((0, 1), axis=None)
    x_train = scaler.fit_transform(split.x_train.reshape(len(split.x_train), -1).astype(np.float32))
    x_test = scaler.transform(split.x_test.reshape(len(split.x_test), -1).astype(np.float32))
    model = nn.Sequential(nn.Dense(100), kitae.BatchNorm(), nn.ReLU(), nn.Dense(10))
    trainer = Trainer(model, "softmax_cross_entropy", kitae.Adam(lr=2e-3))
    batches = Batches(x_train, one_hot(split.t_train, 10), 32, seed=seed, augment=on_rows(augmentation, size))
    trainer.fit(batches, epochs=epochs, verbose=0)
    return float((trainer.predict(x_test).argmax(axis=1) == split.t_test).mean())


def draw(images, labels, path):
    from matplotlib.figure import Figure

    columns = 8
    images, labels = images[:columns], labels[:columns]
    figure = Figure(figsize=(7, 0.75 * len(SHOWN)))
    axes = figure.subplots(len(SHOWN), columns)
    for row, (name, augmentation) in zip(axes, SHOWN.items(), strict=True):
        varied, _ = augmentation(images, labels, rng=np.random.default_rng(1))
        for place, image in zip(row, varied, strict=True):
            place.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            place.set_axis_off()
        row[0].text(-0.3, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.27, right=0.99, top=0.99, bottom=0.01)
    figure.savefig(path, dpi=120)


def main():
    options = shared.options(__doc__).parse_args()
    data = digits() if options.data is None else load(options.data)
    size = data.images.shape[1:]
    twice = np.concatenate([data.images, data.images[:100]]), np.concatenate([data.labels, data.labels[:100]])
    try:
        train_validation_test_split(*twice)
    except ValueError as refusal:
        print(f"With 100 images twice: {refusal}\n")
    split = train_validation_test_split(
        data.images, data.labels, 0.4, 0.5, seed=0, stratify=True, duplicates="keep together"
    )
    seeds, epochs = (1, 5) if options.quick else (3, 100)
    rows = []
    for name, augmentation in TRAINED.items():
        found = [accuracy(split, size, augmentation, seed, epochs) for seed in range(seeds)]
        rows.append([name, float(np.mean(found)), min(found), max(found)])
    print(f"{len(split.x_train)} training images, {len(split.x_test)} test images, {epochs} epochs, {seeds} seeds")
    shared.print_table(["augmentation", "test accuracy", "lowest", "highest"], rows)
    path = shared.picture(__file__, options.out)
    draw((split.x_train / data.images.max()).astype(np.float32), split.t_train, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
