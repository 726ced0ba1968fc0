internal import DrayFileSystem

/// Times as people read them, in UTC (ISO 8601), every nanosecond shown.
enum CalendarTime {
    /// `2026-01-31T23:59:59.000000001Z`
    static func text(_ time: Timestamp) -> String {
        let day = floorDivide(time.seconds, 86_400)
        let second = time.seconds - day * 86_400
        let (year, month, dayOfMonth) = civil(daysSince1970: day)
        let clock = [second / 3600, second / 60 % 60, second % 60].map { padded($0, 2) }
        return "\(padded(year, 4))-\(padded(month, 2))-\(padded(dayOfMonth, 2))T"
            + clock.joined(separator: ":") + "." + padded(Int64(time.nanoseconds), 9) + "Z"
    }

    private static func padded(_ value: Int64, _ digits: Int) -> String {
        let text = String(value.magnitude)
        let zeroes = String(repeating: "0", count: max(0, digits - text.count))
        return (value < 0 ? "-" : "") + zeroes + text
    }

    private static func floorDivide(_ value: Int64, _ divisor: Int64) -> Int64 {
        let quotient = value / divisor
        return value % divisor < 0 ? quotient - 1 : quotient
    }

    /// The date of a day in the proleptic Gregorian calendar.
    ///
    /// Years are counted from March, so that the leap day is a year's last, in eras of 400 years
    /// (146,097 days).
    private static func civil(daysSince1970 days: Int64) -> (Int64, Int64, Int64) {
        let shifted = days + 719_468  // days from 0000-03-01 to 1970-01-01
        let era = floorDivide(shifted, 146_097)
        let day = shifted - era * 146_097
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365
        let dayOfYear = day - (365 * year + year / 4 - year / 100)
        let month = (5 * dayOfYear + 2) / 153  // 0 is March
        let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
        let civilMonth = month < 10 ? month + 3 : month - 9
        return (year + era * 400 + (civilMonth <= 2 ? 1 : 0), civilMonth, dayOfMonth)
    }
}
