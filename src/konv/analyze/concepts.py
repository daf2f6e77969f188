"""What is worth knowing of each kind of convolution: concept, purpose, networks, formulas.

The letters of the formulas, in print beside the numbers:

    W1, W2  size of input, output       M, N  channels of input, output
    K, DK   kernel                      DF    size of the map walked over: DF^2 is its pixels
    S, P    stride, padding             a     dilation
    r       output padding              g     groups
"""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = (
    "W1, W2: size of input, output. K = DK: kernel. S: stride. P: padding. a: dilation. "
    "r: output padding. g: groups. M, N: channels of input, output. "
    "DF^2: pixels of the output (transposed: of the input)."
)
COUNTED = (
    "MACs are multiply-adds; FLOPs = 2 MACs. Nominal MACs count every tap at every output, padding "
    "included (transposed: every tap at every input); exact MACs only taps that meet a real pixel. "
    "Parameters are weights, without bias."
)
CONVENTION = f"{COUNTED} Memory is input + weights + output in float32."


@dataclass(frozen=True, slots=True)
class Symbols:
    """The formulas of one kind, in letters."""

    size: str
    params: str
    macs: str
    receptive_field: str


@dataclass(frozen=True, slots=True)
class Network:
    """A network that uses a kind of convolution, and for what."""

    name: str
    use: str


@dataclass(frozen=True, slots=True)
class Concept:
    """One kind of convolution in words. `short` fits a caption: one line of 40 letters."""

    title: str
    short: str
    concept: str
    purpose: str
    networks: tuple[Network, ...]
    symbols: Symbols


_ORDINARY_SIZE = "W2 = floor((W1 + 2P - K) / S) + 1"

CONCEPTS = {
    "ordinary": Concept(
        title="Ordinary",
        short="every output sees every channel",
        concept="A small window, the kernel, slides over the image like a magnifying glass; at "
        "each stop the pixels under it are multiplied by the kernel's weights and summed. The "
        "sums, put side by side, are a new image: the feature map of that kernel.",
        purpose="Finds the same pattern wherever it stands, with few weights: edges and textures "
        "in the first layers, parts and objects in later ones.",
        networks=(
            Network("AlexNet", "11 x 11, 5 x 5 and 3 x 3 kernels won ImageNet 2012"),
            Network("VGG", "3 x 3 kernels only, one after the other"),
            Network("ResNet", "3 x 3 and 1 x 1 kernels with a shortcut around them"),
        ),
        symbols=Symbols(_ORDINARY_SIZE, "DK^2 M N", "DK^2 M N DF^2", "DK"),
    ),
    "transposed": Concept(
        title="Transposed",
        short="upsampling: each pixel stamps a kernel",
        concept="The way back of an ordinary convolution, in shape and not in value: each input "
        "pixel stamps the kernel, scaled by its value, onto a larger output, S pixels apart, and "
        "where stamps overlap they add up. The same result comes from spreading the input by "
        "S - 1 zeros and sliding the flipped kernel over it.",
        purpose="Upsampling that is learned: from a small feature map back to the size of the "
        "image. K a multiple of S avoids a checkerboard in the output.",
        networks=(
            Network("DCGAN", "a vector of 100 numbers grows to an image of 64 x 64"),
            Network("FCN", "class scores back to the size of the image"),
            Network("U-Net", "2 x 2 up-convolutions on the way up"),
            Network("deconvnet", "projects a feature back to pixels, to see what a CNN has seen"),
        ),
        symbols=Symbols(
            "W2 = (W1 - 1) S - 2P + a(K - 1) + r + 1",
            "DK^2 M N",
            "DK^2 M N DF^2",
            "ceil(DK / S)",
        ),
    ),
    "dilated": Concept(
        title="Dilated",
        short="the same taps, further apart",
        concept="The kernel's taps are spread: between two of them a - 1 pixels are left out. "
        "The window grows to a(K - 1) + 1 pixels, while weights and multiply-adds stay the same.",
        purpose="Sees far without losing resolution, as pooling would. Layers with the same a "
        "leave holes (gridding), so rates that share no factor, such as 1, 2, 5, are combined.",
        networks=(
            Network("DeepLab", "dilation in place of stride; rates 6, 12, 18 side by side"),
            Network("DUC/HDC", "rates 1, 2, 5 in turn, against gridding"),
            Network("SSD", "fc6 of VGG becomes a 3 x 3 kernel with dilation 6"),
            Network("RFBNet", "rates 1, 3, 5 side by side, as receptive fields in the eye"),
            Network("ESPNet", "a pyramid of rates behind a 1 x 1 reduction (ESP module)"),
        ),
        symbols=Symbols(
            "W2 = floor((W1 + 2P - a(K - 1) - 1) / S) + 1",
            "DK^2 M N",
            "DK^2 M N DF^2",
            "a(DK - 1) + 1",
        ),
    ),
    "grouped": Concept(
        title="Grouped",
        short="each group sees its own channels",
        concept="The input channels are cut into g groups, and each group is convolved by itself "
        "into N / g of the outputs. Nothing crosses from one group to another.",
        purpose="One g-th of the parameters and multiply-adds, and groups can run on different "
        "devices. What is lost is the mixing of channels, which a later layer must bring back.",
        networks=(
            Network("AlexNet", "2 groups, one on each of two GPUs"),
            Network("IGCV1", "two grouped layers with the channels permuted between them"),
            Network("ResNeXt", "32 groups in every block"),
        ),
        symbols=Symbols(_ORDINARY_SIZE, "DK^2 M N / g", "DK^2 M N DF^2 / g", "DK"),
    ),
    "separable": Concept(
        title="Depthwise separable",
        short="first space, then channels",
        concept="Two layers in place of one: a depthwise convolution (g = M: one kernel for each "
        "channel) looks at space alone, then a pointwise one (1 x 1) mixes the channels.",
        purpose="About 1 / N + 1 / DK^2 of the cost of an ordinary layer, for phones and other "
        "small machines. Its depthwise half does little work on each byte, so the clock gains "
        "less than the count of MACs promises.",
        networks=(
            Network("MobileNet", "every convolution but the first"),
            Network("Xception", "Inception taken to its end: one channel a branch"),
        ),
        symbols=Symbols(_ORDINARY_SIZE, "DK^2 M + M N", "(DK^2 M + M N) DF^2", "DK"),
    ),
}
"""By kind, in the order in which they are shown."""
