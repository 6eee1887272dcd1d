"""The way to Label Studio and back: projects, tasks, verdicts.

form      the labelling form: verdict, reasons, rewrite, rating
verdicts  annotation → verdict (pure)
client    the only module that imports the Label Studio SDK
project   one project and one webhook for each dataset
push      samples → tasks, each once
refresh   annotations → reviews, for some tasks or for all
"""
