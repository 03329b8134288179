"""Pictures: what needs matplotlib."""

from typing import Any


def draw_receptive_field(found: Any, ax: Any) -> Any:
    """The gradient of a `ReceptiveField` as a picture, with the field of the middle output as a frame."""
    if len(found.input_size) > 2:
        raise ValueError(f"draw: an input of {len(found.input_size)} spatial axes is no picture")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure().add_subplot()
    gradient = found.gradient
    if gradient.dim() > len(found.input_size):  # signed, of one neuron: grey or white is 0
        most = max(gradient.abs().max().item(), 1e-300)
        if gradient.shape[0] == 3 and gradient.dim() == 3:
            ax.imshow((0.5 + gradient / (2 * most)).permute(1, 2, 0).numpy())
        else:
            ax.imshow(gradient.sum(0).reshape(-1, found.input_size[-1]).numpy(), cmap="RdBu_r", vmin=-most, vmax=most)
    else:
        rows = gradient.reshape(-1, found.input_size[-1])
        ax.imshow((rows / rows.max().clamp_min(1e-300)).sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
    box = found.estimated_box if found.computed is None else found.box()
    (top, bottom), (left, right) = box if len(box) == 2 else ((0, 1), *box)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    ax.plot([x - 0.5 for x, _ in corners], [y - 0.5 for _, y in corners], color="cyan")
    ax.set_title(f"{found.layer}, output {found.position}: {' × '.join(str(e - b) for b, e in box)}")
    return ax
