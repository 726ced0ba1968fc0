import DrayFileSystem
import Testing

@Suite struct PathTests {
    @Test(arguments: [
        ("", "/"), ("/", "/"), ("//", "/"), ("/.", "/"), ("a", "/a"), ("/a/", "/a"),
        ("a//b/./c", "/a/b/c"), ("/a/../b", "/a/../b"), ("..", "/.."), ("/...", "/..."),
    ]) func pathsAreRead(text: String, expected: String) throws {
        let path = try FilePath(text.utf8)
        #expect(path.bytes == Array(expected.utf8))
        #expect(try FilePath(path.bytes).components == path.components)
    }

    @Test(arguments: [("/a", false), ("/a/", true), ("/", true), ("", true), ("a/b", false)])
    func trailingSlashDemandsDirectory(text: String, expected: Bool) throws {
        #expect(try FilePath(text.utf8).requiresDirectory == expected)
    }

    @Test func namesAreLimited() throws {
        #expect(try FileName([UInt8](repeating: 0xff, count: 255)).bytes.count == 255)
        for bad: [UInt8] in [
            [], [0x2e], [0x2e, 0x2e], [0x61, 0x2f], [0x61, 0], [UInt8](repeating: 0x61, count: 256),
        ] {
            #expect(throws: FileSystemError.self) { try FileName(bad) }
        }
        #expect(throws: FileSystemError.self) {
            try FilePath([UInt8](repeating: 0x61, count: 256))
        }
        #expect(throws: FileSystemError.self) {
            try FilePath([UInt8](repeating: 0x2f, count: 4097))
        }
    }

    @Test func normalisationMakesTwoNames() throws {
        let composed = try FileName("é".utf8)
        let decomposed = try FileName("e\u{301}".utf8)
        #expect("é" == "e\u{301}")
        #expect(composed != decomposed)
    }

    static let names: [(bytes: [UInt8], text: String)] = [
        ([0x61, 0x62], "ab"), ([0xff, 0x61], "\\xffa"), ([0x0a], "\\x0a"),
        ([0xff, 0x5c], "\\xff\\x5c"),
    ]

    @Test(arguments: names)
    func namesInMessagesAreEscaped(bytes: [UInt8], text: String) {
        #expect(FileSystemError.text(bytes) == text)
    }
}
