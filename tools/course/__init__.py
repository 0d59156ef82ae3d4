"""Problem sets: hand them out, and let them grade themselves.

    python tools/course release COURSE            write a course's notebooks and judges from assignments/
    python tools/course grade COURSE SET FOLDER   grade a folder of submissions
    python tools/course publish                   write assignments/student/, the notebooks that all can open
    python tools/course slides                    write _build/slides/, a deck for each part of the book

A set has one source, ``assignments/NAME.md``: the text, the model answers, the checks that a student
sees, the parts by which a judge decides, and wrong answers on which the judge is tested. ``source``
reads it, ``release`` writes of it what each is to have.

Marks go by the names of functions. The student's cells run in a process of their own (``inmate``),
locked away from everything else (``jail``). The judge, another process, draws fresh inputs, calls
the student's functions through a pipe, takes numbers and arrays from it and nothing else
(``values``), and compares them with what it computes itself (``judge``). No hidden test is in any
notebook, so none can be read, edited or forged there. ``grade`` does this for a whole class, and
``feedback`` writes its tables and pages.
"""
