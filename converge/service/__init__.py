"""What a program that runs for months needs besides its work: configuration, logs, processes.

Nothing here knows what the program does, except the options of ``engine``. ``settings`` is what
can be set; ``options`` are the same for oslo.config; ``files`` reads configuration files;
``logs`` sets up oslo.log; ``processes`` runs several processes and ``lifeline`` ties them to their
parent. oslo.config and oslo.log are imported only where a configuration file or a format of logs
is asked for.
"""
