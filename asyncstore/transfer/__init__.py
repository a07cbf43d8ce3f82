"""Sends many instances over many associations: chooses the next one, judges each answer, and keeps the account.

An instance goes from one station to the next, and its outcome comes back. A station calls those below it and does not
know those above.

    engine            Transfer, the way in: puts the others together, and hands out the outcomes
    supervisor        one run from beginning to end: starts the feed, opens and ends associations
    pool              the open associations, as many as pay
    worker            one association: takes instances as its window has room, and hands on each answer
    admission         takes what the feed has read ahead, within bounds, and gives it to the associations
    attempts          the end of each attempt: the instance has its outcome, or waits again
    learned           what runs to one peer have found out about it, for the next one
    judge             says which of the two, for each answer and each loss
    duplicates        two files with one SOP Instance UID
    preparing         converts ahead of the associations, in threads, or in processes where a codec is needed
    outcomes          the final ones: recorded, counted, and handed out in the order in which they became final
    offer             what an association request offers, and less to a peer that does not bear it
    work              what waits for an association: in groups of a directory or study, the suspects last
    destination       the health of the peer, from its answers: how long to pause, whether to stop
    limiter           the limits as time goes by
    pending           one instance on its way, and what has happened to it
    plan              which presentation contexts an association proposes

What a run is made with is data: options, limits and their schedule, and reactions, the meaning of each status code.
Calculations that know no station: concurrency, the number of associations, and throttle, the bytes per second. A run is
seen in its report, a view of the moment, the events of trace, and by an observer.

Beside all this, acceptance asks a peer what it accepts and sends nothing, and proof what it has.

A ledger is asked before a file is opened and, if it may know the SOP Instance UID, before an instance is sent.
"""
