"""Trials chosen by what earlier ones have given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.parameters import Parameter
from w2vlab.sweeps.search import make_trial
from w2vlab.sweeps.trial import Trial, value_at


class BayesSearch:
    """Asks Optuna for the next trial (method `bayes`).

    Weights & Biases models the metric by a Gaussian process, Optuna by tree-structured Parzen estimators, which also
    take choices and trials side by side; the file is the same, the trials are not.

    Args:
        sweep: With the method `bayes`.
        seed: Of the draws.

    Raises:
        ValueError: Optuna is not installed, or a parameter has a distribution that it does not know.

    Reference:
        Bergstra et al. 2011, Algorithms for hyper-parameter optimization.
    """

    def __init__(self, sweep: Sweep, seed: int = 0) -> None:
        try:
            import optuna
        except ImportError:
            raise ValueError("`optuna` must be installed for the method bayes: pip install 'w2vlab[sweep]'.") from None
        assert sweep.metric is not None, "the file is refused without one"
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
        """Returns a further trial.

        Args:
            trials: All so far; those without a value that still run count as no better than what is known.
        """
        optuna, metric = self._optuna, self._sweep.metric
        # Made anew from what the record has, so that going on with a sweep is like never having stopped.
        sampler = optuna.samplers.TPESampler(seed=self._seed + len(trials), constant_liar=True)
        assert metric is not None
        study = optuna.create_study(direction=metric.goal, sampler=sampler)
        for trial in trials:
            values = self._encode(trial)
            if values is None:
                continue
            state, value = optuna.trial.TrialState.RUNNING, None
            if trial.ended:
                done = trial.value is not None
                state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.FAIL
                value = trial.value if done else None
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=self._space, value=value, state=state)
            )
        asked = study.ask(self._space)
        return make_trial(self._sweep, {path: self._value(path, asked.params) for path in self._sweep.parameters})

    def _encode(self, trial: Trial) -> dict[str, Any] | None:
        """Returns the values of a trial as Optuna has them; None where they are not of this search."""
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

    def _value(self, path: tuple[str, ...], chosen: dict[str, Any]) -> Any:
        parameter, name = self._sweep.parameters[path], ".".join(path)
        if name not in chosen:
            return parameter.options["value"]
        return parameter.options["values"][chosen[name]] if "values" in parameter.options else chosen[name]


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
