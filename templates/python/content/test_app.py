import unittest

from app import Input, Output, mean


class Mean(unittest.TestCase):
    def test_the_mean_of_one_two_and_six_is_three(self):
        self.assertEqual(mean(Input([1, 2, 6])), Output(3))
