"""Bayesian search with Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.search.grid_and_random import make_trial
from w2vlab.sweeps.search.parameters import Parameter
from w2vlab.sweeps.trial import Trial, value_at


class BayesSearch:
    """Chooses trials by Optuna's TPE sampler (method `bayes`).

    Weights & Biases models the metric by a Gaussian process, Optuna by tree-structured Parzen estimators, which also
    support categorical parameters and parallel trials. The file is the same, the chosen trials are not.

    Args:
        sweep: A sweep with the method `bayes`.
        seed: Random seed.

    Raises:
        ValueError: Optuna is not installed, or does not support the distribution of a parameter.

    Reference:
        Bergstra et al. 2011, Algorithms for hyper-parameter optimization.
    """

    def __init__(self, sweep: Sweep, seed: int = 0) -> None:
        try:
            import optuna
        except ImportError:
            raise ValueError("`optuna` must be installed for the method bayes: pip install 'w2vlab[sweep]'.") from None
        assert sweep.metric is not None, "`read_sweep` requires it"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._sweep = sweep
        self._seed = seed
        self._space = {
            ".".join(path): _distribution(optuna, parameter)
            for path, parameter in sweep.parameters.items()
            if parameter.distribution != "constant"
        }

    def next(self, trials: Sequence[Trial]) -> Trial:
        """Returns the next trial.

        Args:
            trials: All trials so far; running trials without a value are assumed to be poor (constant liar).
        """
        optuna, metric = self._optuna, self._sweep.metric
        # A new study from the recorded trials each time, so that a resumed sweep chooses the same trials.
        sampler = optuna.samplers.TPESampler(seed=self._seed + len(trials), constant_liar=True)
        assert metric is not None
        study = optuna.create_study(direction=metric.goal, sampler=sampler)
        for trial in trials:
            values = self._encode(trial)
            if values is None:
                continue
            state, value = optuna.trial.TrialState.RUNNING, None
            if trial.ended:
                value = trial.value
                state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=self._space, value=value, state=state)
            )
        suggested = study.ask(self._space)
        return make_trial(self._sweep, {path: self._decode(path, suggested.params) for path in self._sweep.parameters})

    def _encode(self, trial: Trial) -> dict[str, Any] | None:
        """Returns the values of a trial in Optuna's encoding; None if they are outside of the search space."""
        values: dict[str, Any] = {}
        for path, parameter in self._sweep.parameters.items():
            name = ".".join(path)
            if name not in self._space:
                continue
            value = value_at(trial.parameters, path)
            if "values" in parameter.options:
                if value not in parameter.options["values"]:
                    return None
                value = parameter.options["values"].index(value)
            if value is None or not self._space[name]._contains(self._space[name].to_internal_repr(value)):
                return None
            values[name] = value
        return values

    def _decode(self, path: tuple[str, ...], suggested: dict[str, Any]) -> Any:
        parameter, name = self._sweep.parameters[path], ".".join(path)
        if name not in suggested:
            return parameter.options["value"]
        return parameter.options["values"][suggested[name]] if "values" in parameter.options else suggested[name]


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    options, kinds = parameter.options, optuna.distributions
    match parameter.distribution:
        case "categorical":
            return kinds.CategoricalDistribution(range(len(options["values"])))  # a value may be a list
        case "int_uniform":
            return kinds.IntDistribution(options["min"], options["max"])
        case "uniform":
            return kinds.FloatDistribution(options["min"], options["max"])
        case "q_uniform":
            return kinds.FloatDistribution(options["min"], options["max"], step=options.get("q", 1))
        case "log_uniform_values":
            return kinds.FloatDistribution(options["min"], options["max"], log=True)
    raise ValueError(
        f"`{parameter.name}` must have `values` or be int_uniform, uniform, q_uniform or log_uniform_values for the "
        f"method bayes, but is {parameter.distribution}."
    )
