//! Venues, concerts, performances and seat maps.

crate::id_types! {
    /// A venue.
    VenueId;
    /// A concert.
    ConcertId;
    /// A performance: one evening of a concert.
    PerformanceId;
}
