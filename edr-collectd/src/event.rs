//! The kinds of events that the collector tells the journal. What each means, and what to do, is in the catalogue
//! `packaging/systemd/edr-collectd.catalog`.

edr_daemon::events! {
    /// It archives, and the page answers.
    Ready = "3b2e57ce85484d60928e5c76da81c289",
    /// The collector stopped in good order.
    Stopped = "8f7def4d9d10400b9e121a27a7901bdc",
    /// It ends by itself: it cannot start, or a part of it ended.
    CannotStart = "a7311ddebe564b5aaa4f981c01729318",
    /// Once an hour, how things are.
    Hour = "ccdfd019dba6426888414693aa83cf8f",
    /// SIGHUP: another configuration is in effect.
    ConfigurationTaken = "8e01a9e53b7a49bbbced496ccb54808b",
    /// SIGHUP: the configuration is wrong, or a part of it needs a restart.
    ConfigurationRefused = "dad44c6c6c2c417397932fe367fc51dd",
    /// Settings, a certificate or a secret changed and are used now.
    SecretsRenewed = "d54ffca3e92b4bdfb4cf8630e3078b24",
    /// Settings, a certificate or a secret changed and do not do.
    SecretsRefused = "db8f46f2d6e643d4a894d241f9c27f52",
    /// No broker can be used.
    KafkaAway = "2269aa4edd6c443d9160aeaf7d624c1c",
    /// A broker refuses what is asked of it.
    KafkaRefuses = "a4ba52665cf0456f8c34d103c621c485",
    /// Partitions are read, from where the archive ends.
    KafkaReading = "f74c3f0d7f6e4e578f5dd1e669df5c9a",
    /// Kafka no longer has records that were not archived.
    RecordsGone = "4afe51257fdd46d0b98822420efe0efa",
    /// A record is no frame; it is archived with its fault.
    NoFrame = "7f0352f349874133961072e565e4f799",
    /// One frame came with two contents; both are archived.
    TwoContents = "536eccbf167e4f46aba3d75cbba1cedd",
    /// The archive cannot be written; it is tried again.
    ArchiveFails = "074c83fb0a054217897c090a51474585",
    /// Another collector archived these records; reading again from where the archive ends.
    ArchiveTaken = "d0d5e98b930c43a68c4b888c8a73307b",
    /// More hosts than are listed send snapshots.
    TooManyHosts = "42b9151c8bbd456f9f2c027a834217a2",
}
