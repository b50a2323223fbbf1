"""A dataset of nnU-Net, planned by hand: what a trainer is made of, its batches and its files."""

import json
from typing import Any

import numpy as np
import torch

DATASET = "Dataset004_Boxes"


def dataset_json(*, regions: bool = False, ignore: bool = False) -> dict[str, Any]:
    """Background and two classes; or two regions that overlap; with or without an ignore label."""
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2] if regions else 1, "core": 2}
    if ignore:
        labels["ignore"] = 3
    more = {"regions_class_order": [1, 2]} if regions else {}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", **more}


def plans() -> dict[str, Any]:
    """Anisotropic, with the axes in another order than in the files: the last one comes first."""
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 0.5, 1.0],
        "original_median_shape_after_transp": [8, 32, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [2, 0, 1],
        "transpose_backward": [1, 2, 0],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            "2d": configuration([32, 16], [0.5, 1.0], [[1, 1], [2, 2], [2, 2]], batch_dice=True),
            "3d_fullres": configuration(
                [8, 32, 16], [3.0, 0.5, 1.0], [[1, 1, 1], [1, 2, 2], [2, 2, 2]], batch_dice=False
            ),
        },
        "continue_training": False,  # what run_training puts in
    }


def configuration(patch, spacing, strides, *, batch_dice):
    axes, stages = len(patch), len(strides)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{axes}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [4] * stages,
                "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                "kernel_sizes": [[3] * axes] * stages,
                "strides": strides,
                "n_conv_per_stage": [1] * stages,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": batch_dice,
    }


def batch_of(trainer, seed=0):
    """What nnU-Net's loader gives: noise, and boxes through nnU-Net's own transforms of labels."""
    patch = trainer.configuration_manager.patch_size
    manager = trainer.label_manager
    transforms = trainer.get_validation_transforms(
        trainer._get_deep_supervision_scales(),
        regions=manager.foreground_regions if manager.has_regions else None,
        ignore_label=manager.ignore_label,
    )
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for start in (2, 4):
        labels = torch.zeros(1, *patch, dtype=torch.int16)
        labels[(..., *[slice(start, n - 1) for n in patch])] = 1
        labels[(..., *[slice(start, n // 2 + 1) for n in patch])] = 2
        labels[..., :2] = 3 if manager.has_ignore_label else 0
        image = torch.randn((1, *patch), generator=generator)
        done = transforms(image=image, segmentation=labels)
        images.append(done["image"])
        targets.append(done["segmentation"])
    together = (
        [torch.stack(heads) for heads in zip(*targets, strict=True)]
        if isinstance(targets[0], list)
        else torch.stack(targets)
    )
    return {"data": torch.stack(images), "target": together}


def labels_of_case(seed):
    """A box of class 1 with class 2 in a corner of it, larger than a patch; (z y x), int8."""
    labels = np.zeros((12, 40, 24), np.int8)
    labels[2:10, 4 + seed : 34, 3:20] = 1
    labels[3:7, 6 + seed : 16, 5:12] = 2
    return labels


def write_cases(preprocessed, configuration):
    """Six cases as nnU-Net's preprocessing leaves them. Their labels by name."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    base = preprocessed / DATASET
    folder = base / plans()["configurations"][configuration]["data_identifier"]
    folder.mkdir(parents=True)
    (base / "dataset_fingerprint.json").write_text("{}")
    (base / "dataset.json").write_text(json.dumps(dataset_json()))
    (base / "nnUNetPlans.json").write_text(json.dumps(plans()))
    written = {}
    for seed in range(6):
        labels = labels_of_case(seed)
        rng = np.random.default_rng(seed)
        image = labels[None] + 0.3 * rng.standard_normal(labels.shape, dtype=np.float32)
        where = {k: np.argwhere(labels[None] == k) for k in (1, 2)}
        settings = dict.fromkeys(("chunks", "blocks", "chunks_seg", "blocks_seg"), (1, 8, 16, 16))
        nnUNetDatasetBlosc2.save_case(
            image.astype(np.float32), labels[None], {"class_locations": where},
            str(folder / f"case_{seed}"), **settings,
        )  # fmt: skip
        written[f"case_{seed}"] = labels
    return written
