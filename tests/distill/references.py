"""Distillation losses, slowly and obviously, in float64, from the formulas of their papers.

Each takes the examples that count alone, and returns a number an example or, where examples are compared, one number.
"""

import itertools
import math

import numpy as np
from scipy.special import expit, log_softmax, rel_entr, softmax
from scipy.stats import norm


def kl(s, t, temperature=1.0):
    return temperature**2 * rel_entr(softmax(t / temperature, axis=-1), softmax(s / temperature, axis=-1)).sum(-1)


def cross_entropy(z, labels, smoothing):
    target = np.eye(z.shape[-1])[labels] * (1 - smoothing) + smoothing / z.shape[-1]
    return -(target * log_softmax(z, axis=-1)).sum(-1)


def dkd(s, t, labels, alpha, beta, temperature):
    losses = []
    for student, teacher, y in zip(s, t, labels, strict=True):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        target = rel_entr([p[y], 1 - p[y]], [q[y], 1 - q[y]]).sum()
        others = rel_entr(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])).sum()
        losses.append(temperature**2 * (alpha * target + beta * others))
    return np.array(losses)


def dist(s, t, beta, gamma, temperature):
    q, p = softmax(s / temperature, axis=1), softmax(t / temperature, axis=1)
    n, classes = p.shape
    within = np.mean([1 - np.corrcoef(q[i], p[i])[0, 1] for i in range(n)])
    between = np.mean([1 - np.corrcoef(q[:, c], p[:, c])[0, 1] for c in range(classes)])
    return temperature**2 * (beta * within + gamma * between)


def standardized_kl(s, t, temperature):
    return kl(*((z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True) for z in (s, t)), temperature)


def multi_level(s, t, temperatures):
    total = 0.0
    for temperature in temperatures:
        q, p = softmax(s / temperature, axis=1), softmax(t / temperature, axis=1)
        n, classes = p.shape
        total += kl(s, t, temperature).sum() / n
        total += sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(n) for j in range(n)) / n
        total += (
            sum((p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 for i in range(classes) for j in range(classes)) / classes
        )
    return total


def mse(s, t):
    return np.array([np.mean((a - b) ** 2) for a, b in zip(s, t, strict=True)])


def cosine(s, t):
    return np.array([1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(s, t, strict=True)])


def binary_divergence(p, q):
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)


def rank_pairs(s, t, temperature):
    pairs = list(itertools.combinations(range(s.shape[-1]), 2))
    p, q = ([expit((z[:, i] - z[:, j]) / temperature) for i, j in pairs] for z in (t, s))
    terms = [binary_divergence(a, b) for a, b in zip(p, q, strict=True)]
    return temperature**2 * np.mean(terms, axis=0)


def rank_list(s, t, top):
    losses = []
    for student, teacher in zip(s, t, strict=True):
        left, loss = list(np.argsort(-teacher)), 0.0
        for place in list(left)[:top]:
            loss -= student[place] - np.log(np.exp(student[left]).sum())
            left.remove(place)
        losses.append(loss)
    return np.array(losses)


def binary_kl(s, t, temperature):
    return temperature**2 * binary_divergence(expit(t / temperature), expit(s / temperature)).sum(-1)


def per_pixel_kl(s, t, temperature):
    return np.array([np.mean(kl(a, b, temperature)) for a, b in zip(s, t, strict=True)])


def channel_wise(s, t, temperature):
    losses = []
    for student, teacher in zip(s, t, strict=True):
        channels = range(student.shape[-1])
        losses.append(np.mean([kl(student[..., c].ravel(), teacher[..., c].ravel(), temperature) for c in channels]))
    return np.array(losses)


def hint(s, t):
    return np.array([np.mean((a - b) ** 2) for a, b in zip(s, t, strict=True)])


def attention(s, t, power):
    def unit(x):
        activity = (np.abs(x) ** power).sum(-1).ravel()
        return activity / np.linalg.norm(activity)

    return np.array([np.mean((unit(a) - unit(b)) ** 2) for a, b in zip(s, t, strict=True)])


def fsp(s, t):
    def flow(x, y):
        h, w = x.shape[:2]
        return sum(np.outer(x[i, j], y[i, j]) for i in range(h) for j in range(w)) / (h * w)

    flows = [[flow(x, y) for x, y in zip(*pair, strict=True)] for pair in (s, t)]
    return np.array([np.mean((a - b) ** 2) for a, b in zip(*flows, strict=True)])


def similarity(s, t):
    def of(x):
        x = x.reshape(len(x), -1)
        gram = np.array([[a @ b for b in x] for a in x])
        return np.array([row / np.linalg.norm(row) for row in gram])

    return ((of(s) - of(t)) ** 2).sum() / len(s) ** 2


def correlation(s, t, kernel, gamma, order):
    def of(x):
        x = [row.ravel() / np.linalg.norm(row) for row in x]
        products = np.array([[a @ b for b in x] for a in x])
        if kernel == "bilinear":
            return products
        series = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1)]
        return np.exp(-2 * gamma) * np.sum(series, axis=0)

    return ((of(s) - of(t)) ** 2).sum() / len(s) ** 2


def pkt(s, t):
    def of(x):
        x = [row.ravel() / np.linalg.norm(row) for row in x]
        kernel = np.array([[(1 + a @ b) / 2 if i != j else 0 for j, b in enumerate(x)] for i, a in enumerate(x)])
        return kernel / kernel.sum(1, keepdims=True)

    n = len(s)
    return rel_entr(of(t), of(s)).sum() / (n * (n - 1))


def nst(s, t, kernel):
    losses = []
    for student, teacher in zip(s, t, strict=True):
        xs, xt = ([c / np.linalg.norm(c) for c in x.reshape(-1, x.shape[-1]).T] for x in (student, teacher))
        spread = np.mean([np.sum((a - b) ** 2) for a in xs for b in xt])
        k = {
            "polynomial": lambda a, b: (a @ b) ** 2,
            "linear": lambda a, b: a @ b,
            "gaussian": lambda a, b, spread=spread: np.exp(-np.sum((a - b) ** 2) / (2 * spread)),
        }[kernel]
        means = [np.mean([k(a, b) for a in x for b in y]) for x, y in ((xt, xt), (xs, xs), (xs, xt))]
        losses.append(means[0] + means[1] - 2 * means[2])
    return np.array(losses)


def huber(x):
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5


def rkd_distance(s, t):
    pairs = list(itertools.permutations(range(len(s)), 2))
    ds, dt = (np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (s, t))
    return np.mean([huber(a - b) for a, b in zip(ds / ds.mean(), dt / dt.mean(), strict=True)])


def rkd_angle(s, t):
    def angle(x, i, j, k):
        a, b = (x[i] - x[j]).ravel(), (x[k] - x[j]).ravel()
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    triplets = itertools.permutations(range(len(s)), 3)
    return np.mean([huber(angle(s, *each) - angle(t, *each)) for each in triplets])


def vid(s, t, raw, floor):
    variance = np.log1p(np.exp(raw)) + floor
    terms = 0.5 * (np.log(variance) + (t - s) ** 2 / variance)
    return np.array([each.mean() for each in terms])


def ofd(s, t, margin):
    losses = np.zeros(len(s))
    for place in np.ndindex(*s.shape):
        target = max(t[place], margin[place[-1]])
        if not s[place] <= target <= 0:
            losses[place[0]] += (s[place] - target) ** 2
    return losses


def ofd_margin(scale, bias):
    ratio = bias / abs(scale)
    return bias - abs(scale) * np.exp(norm.logpdf(ratio) - norm.logcdf(-ratio))


def averaged(x, n):
    """Adaptive average pooling of [h, w, c] to [n, n, c]."""
    h, w = x.shape[:2]
    edges = [[(math.floor(i * m / n), math.ceil((i + 1) * m / n)) for i in range(n)] for m in (h, w)]
    return np.array([[x[a:b, c:d].mean((0, 1)) for c, d in edges[1]] for a, b in edges[0]])


def hierarchical(s, t):
    losses = []
    for a, b in zip(s, t, strict=True):
        loss, weight, total = np.mean((a - b) ** 2), 1.0, 1.0
        for n in (4, 2, 1):
            if n < min(a.shape[:2]):
                weight /= 2
                loss += weight * np.mean((averaged(a, n) - averaged(b, n)) ** 2)
                total += weight
        losses.append(loss / total)
    return np.array(losses)


def batch_norm(x, values):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * values["scale"] + values["bias"]


def nearest(x, size):
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, x.shape[1:3], strict=True))
    return x[:, rows][:, :, columns]


def conv3x3(x, values):
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(i, j) for i in range(3) for j in range(3)]
    return sum(padded[:, i : i + h, j : j + w] @ values["kernel"][i, j] for i, j in places)


def review(s, t, values):
    total, deeper = 0.0, None
    for own, student, teacher in list(zip(values, s, t, strict=True))[::-1]:
        x = batch_norm(student @ own["reduce"]["kernel"], own["reduce_norm"])
        if deeper is not None:
            deeper = nearest(deeper, x.shape[1:3])
            both = np.concatenate([x, deeper], -1)
            weights = expit(both @ own["attend"]["kernel"] + own["attend"]["bias"])
            x = x * weights[..., :1] + deeper * weights[..., 1:]
        deeper = x
        fused = batch_norm(conv3x3(nearest(x, teacher.shape[1:3]), own["expand"]), own["expand_norm"])
        total = total + hierarchical(fused, teacher)
    return total


def crd(s, t, index, negatives, values, memory, temperature):
    """Losses, and the logarithms of the two normalizers, which these examples fix if the memory has none."""
    n = len(memory["student"])

    def embed(x, own):
        x = x.reshape(len(x), -1) @ own["kernel"] + own["bias"]
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    losses, log_z = np.zeros(len(s)), []
    for place, (x, name, other) in enumerate(((s, "student", "teacher"), (t, "teacher", "student"))):
        places = np.concatenate([index[:, None], negatives], axis=1)
        e = embed(x, values[name])
        scores = np.exp([[e[i] @ memory[other][j] / temperature for j in row] for i, row in enumerate(places)])
        z = np.exp(memory["log_z"][place]) if memory["begun"] else scores.mean() * n
        p, noise = scores / z, negatives.shape[1] / n
        losses -= np.log(p[:, 0] / (p[:, 0] + noise)) + np.log(noise / (p[:, 1:] + noise)).sum(1)
        log_z.append(np.log(z))
    return losses, np.array(log_z)
