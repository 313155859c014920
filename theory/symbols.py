"""What the symbols in claims stand for: `python -m theory symbols`."""

MODEL = """\
The model (arXiv 2506.13479): residual h = sum of V e_s over earlier tokens s, plus e of the last
one; key phi = relu(U h); logits = W phi. LoRA adapts W unless a claim says otherwise. "x R1" asks
for r1(x); "x R1 R2" for r2(r1(x)). An expert's adapter edits all facts of one relation."""

SYMBOLS = {
    "the one-layer model": {
        "e_t, V, U, W": "embedding of token t; value, up and down matrices",
        "h, phi, m, d": "residual and key of a prompt; number of features; width of the residual",
        "x, y, z": "a subject; the bridge, which answers hop 1; an answer to hop 2",
        "R, r, r~": "a relation's token; its map before the edit, and after it",
        "X, Y, Z, N": "the sets of subjects, bridges and answers; how many each of them holds",
        "i_y, I_old, I_new": "unit vector of answer y; these as rows, one a fact, old and new",
        "Phi, G, g": "keys of a relation's facts; their Gram matrix; overlaps with a prompt",
        "theta, J, J2": "angle of two residuals; arc-cosine kernels of order 1 and 2, 1 at angle 0",
        "clean geometry": "all e_t and all V e_t are orthonormal",
        "D, gap": "what an expert adds to new less old; the lead of old before it",
        "K, w": "number of merged adapters; weight of each in the merge",
        "LIS(N)": "longest increasing subsequence of a uniform permutation of N things",
    },
    "adapters": {
        "A, B, r, R": "factors of an update B A; its rank, r here and R in Zeng and Lee",
        "c_y, t": "code vector of answer y; scale of the codes",
        "sum": "sum_k B_k A_k",
        "mean of products": "(1/K) sum_k B_k A_k",
        "product of means": "mean(B) mean(A), which depends on how B A was factored",
        "rho, k/n": "share of the rank that a truncation keeps; frequency of a circulant matrix",
    },
    "expressive power": {
        "W_l, Wt, E": "frozen factors; the target; the gap Wt - W_L ... W_1",
        "L, Lt, M": "layers, frozen and target; frozen layers to a target one (M = L / Lt)",
        "sigma_k": "k-th largest singular value",
        "D, d_h": "width; rows of a head's Q and K",
        "M (transformer)": "W2 Wt2^-1, folded into the next block's gaps; also a gauge of a head",
        "G": "largest rank of a gap of K^T Q, O V or W_out W2",
    },
    "landscape and asymmetry": {
        "KN": "numbers to fit: outputs times examples",
        "G_i, y_i": "the i-th feature matrix and its value: <G_i, X> = y_i",
        "|X|_*": "nuclear norm, the sum of singular values",
        "S, s_i, w_i": "input covariance; its spectrum; the change's share of power along input i",
    },
    "statistics": {
        "bound, observed": "what the theory sets for a case; what the check found",
        "allowed": "rounding, 4 standard errors where something is sampled, a stated bias",
        "z": "observed less bound, beyond the bias, in standard errors",
        "margin": "what is left of allowed; an inequality's slack as a share of its bound",
        "notices": "the smallest relative error of the bounds that would break the claim",
    },
}


def text() -> str:
    lines = [MODEL]
    for heading, symbols in SYMBOLS.items():
        lines += ["", heading]
        lines += [f"  {symbol:<18} {meaning}" for symbol, meaning in symbols.items()]
    return "\n".join(lines)
