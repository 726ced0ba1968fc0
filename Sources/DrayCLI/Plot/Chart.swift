/// Lines over two axes.
struct Chart {
    /// One line, and a mark at each of its points unless there are many.
    struct Series {
        var name: String
        /// Ascending by x.
        var points: [Point]
    }

    struct Point: Hashable {
        var x: Double
        var y: Double
    }

    var title: String
    var x: Axis
    var y: Axis
    var series: [Series]
}
