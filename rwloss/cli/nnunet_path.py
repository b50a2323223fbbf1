"""`rwloss nnunet-path`: where nnU-Net finds rwloss's trainers."""

from __future__ import annotations

import typer


def nnunet_path() -> None:
    """Print the folder of the nnU-Net trainers.

    nnU-Net v2 finds them after: export nnUNet_extTrainer=$(rwloss nnunet-path)
    """
    from importlib.util import find_spec

    from rwloss.integrations.nnunet import trainers_folder

    # On standard error and without a failure: $(rwloss nnunet-path) must print only the folder, and
    # nnU-Net may be in another environment.
    if find_spec("nnunetv2") is None:
        typer.echo(
            "rwloss: nnU-Net v2 is not installed here, and the trainers need it in addition to "
            "rwloss: "
            "pip install 'rwloss[nnunet]'",
            err=True,
        )
    typer.echo(trainers_folder())
