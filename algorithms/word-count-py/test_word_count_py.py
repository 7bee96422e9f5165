import unittest

from word_count_py import Input, Output, word_count


class WordCount(unittest.TestCase):
    def test_words_are_counted_in_any_case(self):
        output = word_count(Input("To be or not to be", top=2))
        self.assertEqual(output, Output(6, [("to", 2), ("be", 2)]))

    def test_an_empty_text_has_no_words(self):
        self.assertEqual(word_count(Input(" ")), Output(0, []))
