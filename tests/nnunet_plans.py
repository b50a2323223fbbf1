"""A data set of nnU-Net, planned by hand: what a trainer is made of, without its files."""

from typing import Any

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
