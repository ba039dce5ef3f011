# SPDX-License-Identifier: Apache-2.0
"""Every key of what a run writes: its unit and what it means.

The glossary of docs/files.md is made of these tables, and a test holds that
real runs write these keys and no others. A dot goes into an object, [] into
each item of a list. A word in capitals stands for any key of its table.
"""

Table = dict[str, tuple[str, str]]

CLASSIFIED: Table = {
  'accuracy': ('fraction', 'examples whose likeliest class is their label'),
  'top5_accuracy': (
    'fraction',
    'examples whose label is among the five likeliest classes',
  ),
  'nll': ('nats', 'negative log-likelihood of the labels, mean'),
  'expected_calibration_error': (
    'fraction',
    '|accuracy - mean confidence| of 15 equal bins of the largest '
    'probability, mean weighted by their images; 0 is best',
  ),
  'entropy': ('nats', 'entropy of the predictions, mean'),
  'examples': ('', 'how many examples it was measured on: the denominator'),
}
_RANKING: Table = {
  **{
    f'rank_{rank}_accuracy': (
      'fraction',
      'valid queries with a match '
      + (f'among their first {rank} items' if rank > 1 else 'as first item'),
    )
    for rank in (1, 5, 10, 20)
  },
  'map': ('fraction', 'mean average precision, by mean precision at matches'),
  'map_trapezoid': (
    'fraction',
    "the same by the trapezoidal rule, as Market-1501's own tool has it",
  ),
  'valid_queries': ('', 'queries that have a match'),
  'skipped_queries': ('', 'queries that have none'),
}
RANKED: Table = {
  **_RANKING,
  'gallery_items': ('', 'items of the gallery that are no junk'),
  'junk_removed': ('', 'items that were left out as junk'),
  'examples': ('', 'valid queries'),
  **{
    f'multi_query_{name}': (unit, f'queries of several images: {meaning}')
    for name, (unit, meaning) in _RANKING.items()
  },
}
STEPPED: Table = {
  'loss': ('nats', "w cross_entropy + w' T² imitation, with the method's w"),
  'cross_entropy': ('nats', 'of Eq 2, with the labels that train'),
  'imitation': (
    'nats',
    'R_kl of Eq 6, where the stage has soft targets; 0 in a step without any',
  ),
  'accuracy': ('fraction', 'of the augmented images that trained'),
}
NOISE: Table = {
  'memorised': ('fraction', 'wrong labels that are predicted'),
  'corrected': ('fraction', 'of these images, those predicted as they are'),
  'examples': ('', 'training images with wrong labels'),
}
PLACE: Table = {
  'stage': ('', 'number of the stage, from 1'),
  'epoch': ('epochs', 'of the stage: the one a step is in, or those done'),
  'step': ('steps', 'optimiser steps of the run that were done by then'),
  'split': ('', 'what was measured on'),
}
DATA: Table = {
  'name': ('', 'of the data set'),
  'version': ('', 'of the data set'),
  'fingerprint': ('', 'digest of the training split in its order'),
  'train_examples': ('', 'examples that train'),
}
BANK: Table = {
  'temperature': ('', 'T of Eq 5'),
  'views': ('', 'augmented views that a target is the mean of; 0: clean image'),
  'entropy': ('nats', 'mean entropy of the softened targets'),
  'examples': ('', 'training examples'),
  'noise.NOISE': ('', 'where labels are wrong: what the targets say of them'),
}
ENVIRONMENT: Table = {
  'device.platform': ('', 'cpu, gpu or tpu'),
  'device.kind': ('', "the device's name"),
  'device.count': ('', 'devices of all processes'),
  'versions.PACKAGE': ('', 'version of a package'),
  'commit': ('', "of the program, '-dirty' where files differ; null: unknown"),
  'python': ('', 'version'),
  'cpu': ('', "the processor's model"),
  'cores': ('', 'of the processor that the process may use'),
  'narrow_vectors': ('', 'whether it is an x86 without AVX-512'),
  'xla_flags': ('', 'XLA_FLAGS'),
  'jax_options.OPTION': ('', 'of JAX, where they may change numbers'),
  'steps_per_dispatch': ('steps', 'in one call of the device'),
  'eval_batch_size': ('images', 'in a call of the predict step'),
}
SEAL: Table = {
  'format': ('', 'of what is written; see runs/formats.py'),
  'version': ('', 'of the program that wrote it'),
  'digest': ('', 'SHA-256 of all the rest: a changed file is refused'),
}
# What words in capitals stand for; open tables are of the program's own names.
WORDS: dict[str, Table] = {
  'METRIC': {**RANKED, **CLASSIFIED},
  'STEPPED': {**STEPPED, 'examples': CLASSIFIED['examples']},
  'NOISE': NOISE,
  'PLACE': PLACE,
  'BANK': BANK,
  'ENVIRONMENT': ENVIRONMENT,
}
OPEN = {
  'FIELD': 'a field of the configuration, see [Settings](settings.md)',
  'NETWORK': 'the name of a network',
  'PACKAGE': 'the name of a package',
  'OPTION': 'the name of an option',
}

FILES: dict[str, dict[str, Table]] = {
  'result.json': {
    'What was found': {
      'final.test.METRIC': (
        '',
        'the result: the last network, its last epoch, on the test split',
      ),
      'best.PLACE': ('', "where the last stage's best evaluation was"),
      'best.METRIC': (
        '',
        'what it was: on the validation split if there is a hold-out; else it '
        'was chosen on the test split, and is no result',
      ),
      'ensemble': ('', 'null where there is one stage'),
      'ensemble.test.METRIC': ('', "of the mean of all stages' ends"),
      'ensemble.test.disagreement': (
        'fraction',
        'examples on which not all of them predict the same class',
      ),
      'teacher': ('', 'null unless `teacher.workdir` names one'),
    },
    'Each stage': {
      'stages[].stage': PLACE['stage'],
      'stages[].teacher': (
        '',
        'number of the stage that taught it, 0: an imported run, null: none',
      ),
      'stages[].model': ('', 'name of its network'),
      'stages[].epochs': ('epochs', 'that it trained'),
      'stages[].steps': ('steps', 'that it trained'),
      'stages[].test.METRIC': ('', 'its last epoch, on the test split'),
      'stages[].others.mean.METRIC': (
        '',
        'of mean_teacher: the mean of the parameters, on the test split',
      ),
      'stages[].best.PLACE': ('', 'where its best evaluation was'),
      'stages[].best.METRIC': ('', 'see `best`'),
      'stages[].train_epoch.STEPPED': (
        '',
        'means over the steps of its last epoch',
      ),
      'stages[].train.METRIC': (
        '',
        'its end, on clean training images and their right labels',
      ),
      'stages[].noise.NOISE': ('', 'where labels are wrong: what it says'),
      'stages[].agreement.agreement': (
        'fraction',
        "training images on which it predicts its teacher's class",
      ),
      'stages[].agreement.examples': ('', 'training images'),
      'stages[].soft_targets': (
        '',
        'where it teaches; null where it predicts in each step instead',
      ),
      'stages[].soft_targets.BANK': ('', 'what it taught'),
      'stages[].extraction_seconds': (
        'seconds',
        'that predicting and writing them took, compilation apart; null: '
        'unknown, or none were stored',
      ),
      'stages[].seconds.train': ('seconds', 'of training, with compilation'),
      'stages[].seconds.evaluate': ('seconds', 'of evaluation'),
      'stages[].last_epoch_seconds': ('seconds', 'of its last epoch'),
      'stages[].sessions[].from_step': (
        'steps',
        'where a process began, or went on',
      ),
      'stages[].sessions[].environment.ENVIRONMENT': ('', 'what it ran on'),
    },
    'An imported teacher': {
      'teacher.model': ('', 'name of its network'),
      'teacher.method': ('', 'by which it was trained'),
      'teacher.seed': ('', 'of its run'),
      'teacher.config.FIELD': ('', 'its fields that change numbers'),
      'teacher.workdir': ('', 'where it lay'),
      'teacher.checkpoint': ('', 'digest of its network'),
      'teacher.test.METRIC': ('', 'of its run'),
      'teacher.train_epoch.STEPPED': ('', 'of its last epoch'),
      'teacher.train.METRIC': ('', "on the student's clean training images"),
      'teacher.noise.NOISE': ('', 'what it says of wrong labels'),
      'teacher.soft_targets': ('', 'null where it predicts in each step'),
      'teacher.soft_targets.BANK': ('', 'what it taught'),
      'teacher.extraction_seconds': ('seconds', 'see `stages[]`'),
    },
    'What it cost': {
      'cost.units': (
        'forward passes of an image',
        'a train step is 3 an image, a prediction 1',
      ),
      'cost.training_1e16': (
        '10¹⁶ multiply-adds',
        "the paper's TrCost, with teachers and extractions",
      ),
      'cost.training_flops': (
        'FLOPs',
        "XLA's own count of the run; null where there is no CPU to count on",
      ),
      'cost.forward_multiply_adds.NETWORK': (
        'multiply-adds',
        'of a forward pass of an image',
      ),
      'cost.parameters.NETWORK': ('', 'numbers that are trained'),
      'cost.stages[].model': ('', 'name of the network'),
      'cost.stages[].epochs': ('epochs', 'that trained'),
      'cost.stages[].extractions': (
        'passes over the training set',
        'that predicted',
      ),
      'cost.stages[].parameters': ('', 'as above'),
      'cost.stages[].forward': ('multiply-adds', 'as above'),
      'cost.stages[].forward_flops': ('FLOPs', 'of a forward pass of an image'),
      'cost.stages[].train_flops': (
        'FLOPs',
        'of a forward and backward pass of an image',
      ),
      'cost.seconds.train': ('seconds', 'of all stages'),
      'cost.seconds.evaluate': ('seconds', 'of all stages'),
      'cost.seconds.extract': ('seconds', 'of all extractions'),
      'cost.seconds.teacher': (
        'device-seconds',
        'of an imported teacher, times its devices',
      ),
      'cost.extraction_share': ('fraction', 'of all seconds'),
      'cost.extraction_epochs': (
        'epochs',
        'each extraction, in seconds of a training epoch',
      ),
      'peak_memory_bytes.host': ('bytes', 'most memory of the process'),
      'peak_memory_bytes.device': (
        'bytes',
        'most memory of the first device; not on CPU',
      ),
    },
    'What was run, and on what': {
      'seed': ('', 'of the run'),
      'config.FIELD': ('', 'the whole configuration'),
      'schedule': (
        'steps and rate',
        '[step, rate] wherever the learning rate changes, steps from 0',
      ),
      'steps_per_epoch': ('steps', 'of an epoch'),
      **{f'data.{name}': about for name, about in DATA.items()},
      'data.ranked': ('', 'digest of the images that are ranked, or null'),
      'weights': ('', 'digest of imported weights it started from, or null'),
      'ENVIRONMENT': ('', 'the last process'),
      **SEAL,
    },
  },
  'model.json': {
    '': {
      'task': ('', 'classification or retrieval'),
      'image_shape': ('pixels', '[height, width, channels]'),
      'resize': (
        'pixels',
        "what an image's shorter side becomes before its centre is cut out; "
        '0: it is stretched',
      ),
      'mean': ('of pixels in [0, 1]', 'one a channel'),
      'std': ('of pixels in [0, 1]', 'one a channel'),
      'classes': ('', 'names, by label'),
      'words': ('', 'what the names mean, where they are codes; else empty'),
      'networks[].model': ('', "name of a stage's network"),
      'networks[].options.small_stem': ('', 'where `model.stem` is set'),
      'networks[].options.shortcut': ('', 'where `model.shortcut` is set'),
      'networks[].dtype': ('', 'precision of the computation'),
      **{f'data.{name}': about for name, about in DATA.items()},
      **SEAL,
    }
  },
  'metrics.jsonl': {
    'Each line': {
      **PLACE,
      'split': (
        '',
        'train: a single step; train_epoch: the mean of an epoch; test or '
        'validation: an evaluation',
      ),
    },
    'Lines of train and train_epoch': {
      **STEPPED,
      'learning_rate': ('', 'applied in the step; train alone'),
      'examples': ('', 'images that trained in the epoch; train_epoch alone'),
    },
    'Lines of test and validation': {'METRIC': ('', 'of the split')},
  },
}
ABOUT = {
  'result.json': (
    'Written once, when the run is finished. `final.test` is the result.'
  ),
  'model.json': (
    'Written when the run begins: what it takes to use its networks without '
    'their data.'
  ),
  'metrics.jsonl': (
    'One JSON object a line, each step (or every `log.every_steps`-th) and '
    'each evaluation once. What is not a finite number is a string.'
  ),
}
# What words stand for that has a table on the page: its title.
TITLES = {
  'METRIC': 'METRIC, where images are classified or ranked',
  'STEPPED': 'STEPPED: means over steps',
  'NOISE': 'NOISE: of wrong labels',
  'PLACE': 'PLACE: of an evaluation',
  'BANK': 'BANK: soft targets',
  'ENVIRONMENT': 'ENVIRONMENT: what a process ran on',
}
