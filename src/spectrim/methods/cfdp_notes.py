"""What the plan of a cut says of a group of channels: what goes and what it saves, or why it stays whole."""

from spectrim.methods.cfdp_budget import Settled
from spectrim.methods.cfdp_widths import Ladder


def going(ladder: Ladder, kept: int, saving: tuple[int, int | None], *, score: str, target: str | None) -> str:
    """What goes, why, with what, and what it saves.

    Args:
        ladder: Of the group.
        kept: How many units stay.
        saving: Parameters and multiply-accumulates, None where those cannot be counted.
        score: The name of the ranking.
        target: What was asked for in place of widths.
    """
    group = ladder.group
    note = [f"{score} scores below {ladder.below(kept):.2f} of the mean go"]
    if target is not None and kept == ladder.rungs[-1]:
        note.append("at its least width")
    if len(group.writers) > 1:
        others = group.writers[1:]
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        note.append(f"with {', '.join(others[:3])}{more}")
    if group.locked[0]:
        note.append(f"{group.locked[0]} cannot go: {group.locked[1]}")
    parameters, operations = saving
    note.append(f"saves {parameters:,} parameters" + ("" if operations is None else f" and {operations:,} MACs"))
    return "; ".join(note)


def staying(ladder: Ladder, settled: Settled, *, target: str | None) -> str:
    """Why a group stays whole that might have been cut; empty if it is cut."""
    path = ladder.group.path
    if path in settled.blamed:
        return settled.blamed[path]
    if settled.kept[path] == ladder.rungs[0]:
        return f"target={target} leaves all of its {ladder.group.width} channels"
    return ""
