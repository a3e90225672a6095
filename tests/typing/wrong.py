"""A user's program with a mistake in every marked line, which a type checker reports."""

import torch

import ttlightning
from ttlightning import Classifier, EqualCoreTensorTrain, PatchDataModule, TensorTrain

TensorTrain("6", 3, 10)  # mistake
TensorTrain(6, 3, 10, ranks=2)  # mistake
EqualCoreTensorTrain(6, 3, 10, initialization="uniform")  # mistake
TensorTrain(6, 3, 10).rank = 4  # mistake
print(TensorTrain(6, 3, 10)(torch.zeros(2, 6, 3)).nonsense)  # mistake
PatchDataModule("mnist", order="rows")  # mistake
Classifier(16, 49)  # mistake
ttlightning.load(3)  # mistake
ttlightning.load("runs/eq/0").predict(torch.zeros(28, 28), batch_size="2")  # mistake
print(ttlightning.TensorTree)  # mistake
