"""Trains a network on digits with kitae's training loop: schedule, metrics, early stopping, learning curves."""

import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
import kitae.nn
import kitae.train


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    kitae.seed(0)
    model = kitae.nn.Sequential(
        kitae.nn.Dense(100, init="he"), kitae.BatchNorm(activation="relu"), kitae.Dropout(0.2), kitae.nn.Dense(10)
    )
    early = kitae.train.EarlyStopping(patience=5, restore_best=True)
    trainer = kitae.train.Trainer(
        model,
        loss="softmax_cross_entropy",
        optimizer=kitae.Adam(lr=1e-3, max_norm=1.0),
        schedule=kitae.train.Exponential(0.98, per="epoch"),
        metrics=["accuracy"],
        callbacks=[early],
    )
    epochs = 3 if arguments.quick else 60
    history = trainer.fit(x, t, validation_split=0.2, epochs=epochs, batch_size=128, verbose=0)

    results = history.history
    chosen = [epoch for epoch in history.epoch if epoch % 5 == 0 or epoch == history.epoch[-1]]
    rows = [[epoch + 1, *(float(results[key][epoch]) for key in results)] for epoch in chosen]
    print_table(["epoch", *results], rows)
    print(f"\n{trainer.epoch} epochs, {trainer.iteration} updates, {trainer.samples} samples seen;", end=" ")
    print(f"weights of epoch {early.best_epoch + 1} kept")
    for name, value in trainer.evaluate(x_test, t_test).items():
        print(f"test {name}: {value:.4f}")
    print("digits that are taken for others most often (true, predicted, times):")
    confusions = kitae.train.confusion_matrix(trainer.predict(x_test), t_test)
    np.fill_diagonal(confusions, 0)
    for place in np.argsort(confusions, axis=None)[:-4:-1]:
        true, predicted = np.unravel_index(place, confusions.shape)
        print(f"  {true} {predicted} {confusions[true, predicted]}")
    history.plot(picture(__file__, arguments.out))


if __name__ == "__main__":
    main()
