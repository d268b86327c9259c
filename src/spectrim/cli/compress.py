"""``spectrim compress``: the whole job."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from spectrim.cli import options
from spectrim.cli.errors import StoppedError, values


def compress(
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the artifact, the numbers and the report.")],
    method: options.MethodName = options.METHODS[0],
    keep: options.Keep = None,
    target: options.Target = None,
    floor: options.Floor = None,
    schedule: options.Schedule = None,
    score: options.Score = None,
    settings: options.Set = None,
    where: options.Where = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Cut and fine-tune in so many rounds, which share the epochs; for cfdp.")
    ] = 1,
    reinit: Annotated[
        Literal["none", "hrankplus", "all"],
        typer.Option(
            help="Fresh weights after the cut: none, all but those of convolutions (as the released programs), or all."
        ),
    ] = "none",
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained", help="Cut the network as it is initialised, then train the rest from fresh weights."
        ),
    ] = False,
    repair: Annotated[
        bool | None,
        typer.Option(
            "--repair/--no-repair",
            help="Fit what a cut left to the network before it, without training; the default after a cut.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How the compressed network trains: {', '.join(options.RECIPES)}; what suits network and method if not given.",
            autocompletion=options.beginning(options.RECIPES),
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs of annealing and fine-tuning.")] = None,
    dense_epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Epochs of dense training first; 0 if --weights are given.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of everything random.")] = 0,
    weights: options.Weights = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up the run in --out where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again in a folder that holds a run.")] = False,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per step, in all processes.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate while compressing.")] = None,
    dense_lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate of dense training.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="DECAY", help="Of the optimizer, while compressing.")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the cross entropy, while compressing.")
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the loss that is the divergence from the dense network, while compressing; 1 reads no labels.",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="What scores are divided by for --distill; 5 if not given.")
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(metavar="DECAY", help="Keep a moving average of the weights while compressing, as 0.999."),
    ] = None,
    optimizer: Annotated[Literal["adamw", "sgd"] | None, typer.Option(help="While compressing.")] = None,
    anneal: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the epochs after which the target is reached.")
    ] = None,
    precision: Annotated[
        Literal["no", "bf16", "fp16"], typer.Option(help="Mixed precision of the forward passes.")
    ] = "no",
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"], typer.Option(help="Of the numbers in the artifact.")
    ] = "float16",
    norms: Annotated[
        Literal["exact", "folded"],
        typer.Option(help="Write batch norms exactly, or as two vectors in place of four (for inference)."),
    ] = "exact",
    image_size: options.ImageSize = None,
    normalize: options.Normalize = "data",
    checkpoint_every: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Steps between checkpoints; about ten seconds if not given.")
    ] = None,
    cpu: options.Cpu = False,
) -> None:
    """Train (or load) a network, compress it, fine-tune it, measure both.

    Writes DIR/model.safetensors (the artifact), DIR/result.json (every number) and DIR/report.html (a page to read).
    A run that is stopped or killed goes on with --resume and ends with the same artifact.

    \b
    Examples:
      spectrim compress lenet5 --data digits --keep 0.01 --out runs/digits
      spectrim compress lenet5 --data mnist:data/mnist --keep 0.001 --floor 128 --epochs 30 --out runs/mnist
      spectrim compress resnet20 --data cifar10:data/cifar --weights resnet20.safetensors --normalize imagenet \\
          --keep 0.2 --epochs 10 --out runs/resnet20
      spectrim compress resnet20 --data cifar10:data/cifar --weights resnet20.safetensors --normalize imagenet \\
          --method cfdp --target macs:0.5 --epochs 10 --out runs/half
      spectrim compress resnet20 --data cifar10:data/cifar --weights resnet20.safetensors --normalize imagenet \\
          --method reconstructed-filters --keep 0.6 --set assign=outputs --set start=outputs --epochs 10 --out runs/r
      spectrim compress timm:mobilenetv2_100 --data images:photos --weights mobilenetv2.safetensors --normalize imagenet \\
          --method pointwise-pruning --target time:0.78 --epochs 0 --out runs/fast
      spectrim compress resnet56 --data cifar10:data/cifar --method cfdp --keep 0.5 --rounds 3 --ema 0.999 --out runs/c
      spectrim compress vgg16_bn --data cifar10:data/cifar --method cfdp --keep 0.5 --untrained --out runs/u
      spectrim compress torchvision:resnet18 --data images:photos --keep '*.downsample.*=1' --keep '*=0.05' --out runs/p
      torchrun --nproc_per_node 2 -m spectrim compress resnet18 --data cifar10:data/cifar --precision bf16 --out runs/b
    """
    with values():
        from spectrim.training.job import Job
        from spectrim.training.progress import OnConsole
        from spectrim.training.setting import settle

        job = Job(
            model=model,
            data=data,
            method=method,
            settings=options.settings(method, keep, floor, schedule, settings, score=score, target=target),
            where=tuple(where) if where else None,
            rounds=rounds,
            reinit=reinit,
            untrained=untrained,
            repair=repair,
            weights=weights,
            recipe=recipe,
            dense_epochs=dense_epochs,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            dense_lr=dense_lr,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            distill=distill,
            temperature=temperature,
            ema=ema,
            optimizer=optimizer,
            anneal=anneal,
            seed=seed,
            precision=precision,
            dtype=dtype,
            norms=norms,
            image_size=image_size,
            normalize=normalize,
        )
        reporter = OnConsole()
        setting = settle(job, cpu=cpu, say=reporter.say)
    from spectrim.report import before_after, forms
    from spectrim.training import watched
    from spectrim.training.run import run

    try:
        result = run(
            setting,
            out,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            reporter=reporter,
        )
    except watched.StoppedError as error:
        raise StoppedError(str(error)) from error
    if setting.accelerator.is_main_process:
        typer.echo(f"\n{before_after(result)}\n")
        if told := forms.summary(result):
            typer.echo(f"{told}\n")
        for name in ("artifact", "report"):
            if (out / result["files"][name]).is_file():
                typer.echo(f"{name:<9} {out / result['files'][name]}")
