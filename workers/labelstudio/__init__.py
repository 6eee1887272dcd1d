"""The way to Label Studio and back: projects, tasks, verdicts.

form      the labelling form: verdict, reasons, rewrite, rating
verdicts  annotation → verdict (pure)
client    the only module that imports the Label Studio SDK
breaker   when calls to it are made at all
project   one project and one webhook for each dataset
push      samples → tasks, each once
refresh   annotations → reviews, for the tasks that events name
reconcile annotations → reviews, for all that changed
"""
