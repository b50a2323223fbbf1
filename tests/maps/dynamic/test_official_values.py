"""Losses and gradients that the published code gives, carried here as numbers.

Each was run in float64 on the batch below, at the commit that is named. The second number is the
gradient by the logits, times `WAVE` and summed.
"""

import pytest
import torch

from rwloss import RegionWiseLoss

LABELS = torch.tensor(
    [
        [[int(label) for label in row] for row in image.split()]
        for image in (
            "000000000 011110000 011111000 011111022 011110022 001100000 000002220 000002220",
            "111000000 111100000 111100000 111100220 000000220 000000220 000000000 000000000",
        )
    ]
)
WITHOUT_2 = LABELS.where(LABELS < 2, 0)
ONLY_1 = (LABELS == 1).long()
PARTIAL = LABELS.clone()
PARTIAL[:, :, :4].masked_fill_(LABELS[:, :, :4] == 1, 3)
PARTIAL[:, 6:].masked_fill_(LABELS[:, 6:] == 0, 4)
SETS = {"label_sets": {3: (1, 2), 4: (0, 2)}}
MASKS = torch.stack([LABELS == 0, LABELS > 0, LABELS == 2], dim=1).double()
WAVE = torch.sin(0.9 * torch.arange(432, dtype=torch.float64)).reshape(2, 3, 8, 9)
LOGITS = 2 * torch.sin(1.7 * torch.arange(432, dtype=torch.float64)).reshape(2, 3, 8, 9)

IMAGE = torch.cos(0.6 * torch.arange(288, dtype=torch.float64)).reshape(2, 2, 8, 9)
IMAGE = IMAGE + LABELS[:, None]

MIST = {"include_background": False, "spacing_mm": (1.0, 2.0)}  # its maps leave it out too
BATCH = {"batch": True}
VOLUME = {"spacing_mm": (2.5, 1.0, 2.0)}

WASSERSTEIN = "generalized_wasserstein_dice(costs=((0., 1., 2.), (1., 0., 0.5), (2., 0.5, 0.)))"

# Text, settings, target, loss and gradient.
PUBLISHED = [
    # mist-medical/MIST f727791, GenSurfLoss and HDOneSidedLoss with alpha=0, given SciPy's distance
    ("generalized_surface", MIST, LABELS, 0.4880089873, -0.01138153846),
    ("hausdorff_one_sided", MIST, LABELS, 5.915424514, -0.1802793583),
    # sunfan-bvb/BoundaryDoULoss 9f1185c, which adds 1e-5 to the numerator too
    ("boundary_dou", BATCH, LABELS, 0.659265995, -0.02158720059),
    # bermanmaxim/LovaszSoftmax 7d48792; per_image=True in the second
    ("lovasz_softmax", BATCH, LABELS, 0.730716587, -0.006821136761),
    ("lovasz_softmax", {}, WITHOUT_2, 0.7377337289, -0.005192044065),
    ("lovasz_softmax(classes='all')", BATCH, WITHOUT_2, 0.6818278016, 0.05030227001),
    # mlyg/unified-focal-loss 411c9c5 for two classes, a docstring moved to where Python allows it
    ("asymmetric_focal", {}, LABELS > 0, 0.5510979254, -0.01662745648),
    ("asymmetric_focal_tversky", {}, LABELS > 0, 0.6503502964, -0.003881721989),
    ("unified_focal", {}, LABELS > 0, 0.601350475, -0.01251273505),
    # abhuse/polyloss-pytorch b9b2fb3; its focal form takes masks (alpha=-1)
    ("poly(epsilon=2)", {}, LABELS, 3.043421874, -0.05916672041),
    ("poly(gamma=2, epsilon=2)", {"activation": "sigmoid"}, MASKS, 0.983814208, -0.02683800265),
    # kakumarabhishek/MCC-Loss 8576601, the mean over the classes
    ("mcc", {}, LABELS, 0.9724050745, -0.02151024807),
    # usagisukisuki/Adaptive_t-vMF_Dice_loss 75ed575, kappa=32
    ("tvmf_dice", BATCH, LABELS, 3.653647872, -0.02224059022),
    # neuronflow/blob_loss bee911a with MONAI's DiceLoss(), of each class against the rest
    ("blob", {}, LABELS > 0, 0.7417282778, -0.003554658333),
    ("blob", {}, LABELS, 0.7648883104, -0.006628730863),
    # TIO-IKIM/BiCC-Loss 80c52b1, VectorizedCCLoss, of each class against the rest
    ("cc_dice_ce", {"spacing_mm": (1.0, 2.0)}, LABELS > 0, 1.94235169, -0.08351627168),
    ("cc_dice_ce", {"spacing_mm": (1.0, 2.0)}, LABELS, 1.603569619, 0.01204653955),
    # jongcye/CNN_MumfordShah_Loss 4e48c90: levelsetLoss + 0.001 gradientLoss2d over (b c *s), of
    # channels with mean 0 and standard deviation 1
    ("mumford_shah", {}, LABELS, 0.6670974616, -0.00047796546),
    # adigasu/GeoLS 9d82622, of one volume, with GeodisTK 0.1.7 and 40 raster scans in place of 4
    ("geodesic_smoothing(alpha=0.3)", VOLUME, LABELS[None], 1.895060716, -0.01773659767),
    # mobarakol/SVLS 77d1fd2, of one volume of two slices
    ("svls", {}, LABELS[None], 1.750982193, -0.01953474146),
    # MIC-DKFZ/nnUNet 0e49508, TopKLoss(k=10)
    ("top_k", BATCH, LABELS, 4.215877257, 0.2952097747),
    # LucasFidon/label-set-loss-functions 95d3b5c, MarginalizedDiceLoss without and with squares
    ("dice(smooth_nr=0)", SETS, PARTIAL, 0.6987420986, -0.009011359837),
    ("dice(smooth_nr=0, squared_pred=True)", SETS, PARTIAL, 0.5395705518, -0.01317255094),
    # MIRACLE-Center/Partially-supervised-multi-organ-segmentation 89b6b22, Exclusion_loss of
    # SoftDiceLoss(smooth=0), where class 2 has no labels of its own
    (
        "exclusion(measure='dice')",
        {"label_sets": {0: (0, 2)}},
        ONLY_1,
        0.3398878551,
        -0.003189050731,
    ),
    # MONAI 1.6.1, GeneralizedWassersteinDiceLoss
    (WASSERSTEIN, {}, LABELS, 0.4434003846, -0.01121808015),
]


@pytest.mark.parametrize(
    ("text", "settings", "target", "loss", "gradient"), PUBLISHED, ids=[row[0] for row in PUBLISHED]
)
def test_loss_and_gradient(text, settings, target, loss, gradient, device):
    logits = LOGITS.clone().requires_grad_()
    given = logits[:, :2] if target.dtype == torch.bool else logits
    image = IMAGE
    if len(target) == 1:
        given, image = (each.movedim(0, 1)[None] for each in (given, image))
    inputs = (each.to(device) for each in (given, target))
    found = RegionWiseLoss(text, **settings)(*inputs, image=image.to(device))
    assert found.item() == pytest.approx(loss, rel=5e-7)
    found.backward()
    assert (logits.grad * WAVE).sum().item() == pytest.approx(gradient, rel=5e-6, abs=1e-8)
